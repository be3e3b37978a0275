"""A model directory: config.json, safetensors, tokenizer.json."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geminate.checkpoint.coded_tensors import with_coded
from geminate.checkpoint.documents import DocumentCheckpoint
from geminate.checkpoint.entries import Entry
from geminate.checkpoint.json_file import check_regular
from geminate.checkpoint.missing import what_it_is
from geminate.checkpoint.quantization_config import quantization_scheme, with_quantized
from geminate.checkpoint.safetensors_reader import checkpoint_files, read_files
from geminate.errors import ConfigError, GeminateError, ModelNotFoundError, WeightsError

MAX_CARD = 4 << 20  # bytes of README.md and of the licence
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt")
_CARD = re.compile(r"^(license|license_name|license_link):[ \t]*[\"']?([^\"'\n]+)", re.MULTILINE)
# Last parts of the names of tensors that only quantized checkpoints have.
QUANTIZED = ("weight_scale", "weight_packed", "embedding_quantized", "qweight", "weight_scale_inv")


class DirectoryCheckpoint(DocumentCheckpoint):
    """See `Checkpoint`."""

    @property
    def name(self) -> str:
        """See `Checkpoint`."""
        return self.path.resolve().name

    def called(self, name: str) -> str:
        """See `DocumentCheckpoint`."""
        return str(self.path / name)

    def document(self, name: str, error: type[GeminateError], most: int) -> bytes | None:
        """See `DocumentCheckpoint`."""
        path = self.path / name
        try:
            check_regular(path, error, most)
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as cause:
            raise error(f"cannot read {path}: {str(cause)[:300]}") from None

    @functools.cached_property
    def metadata(self) -> Mapping[str, Any]:
        """See `Checkpoint`."""
        found = self.object("config.json")
        if found is None:
            raise ModelNotFoundError(what_it_is(self.path) or f"{self.path} is not a model: it has no config.json")
        return found

    def licence(self) -> Mapping[str, str]:
        """See `Checkpoint`: a LICENSE file, and what the front matter of README.md says."""
        found: dict[str, str] = {}
        parts = self._prose("README.md").split("---\n", 2)
        if len(parts) == 3 and not parts[0]:
            said = dict(_CARD.findall(parts[1]))
            found["name"] = (said.get("license_name") or said.get("license") or "").strip()
            found["link"] = said.get("license_link", "").strip()
        found["text"] = next((text for text in map(self._prose, LICENCES) if text), "")
        return {key: value for key, value in found.items() if value}

    def _prose(self, name: str) -> str:
        """A text for people; "" for one that cannot be read: no model fails by that."""
        try:
            return (self.document(name, ConfigError, MAX_CARD) or b"").decode(errors="replace")
        except ConfigError:
            return ""

    @functools.cached_property
    def files(self) -> tuple[Path, ...]:
        """See `Checkpoint`."""
        return tuple(checkpoint_files(self.path))

    @functools.cached_property
    def tensors(self) -> Mapping[str, Entry]:
        """See `Checkpoint`.

        Raises:
            ConfigError: a quantization_config that is not supported.
        """
        found = with_coded(read_files(self.files))
        scheme = quantization_scheme(self.metadata) if (self.path / "config.json").exists() else None
        if scheme is None and (problem := self.undeclared()):
            raise WeightsError(problem)
        return found if scheme is None else with_quantized(found, scheme)

    def undeclared(self) -> str | None:
        """See `Checkpoint`."""
        try:
            config = self.object("config.json")
            names = read_files(self.files)
        except GeminateError:
            return None  # whoever reads them says what is wrong
        sections = [section for section in (config, (config or {}).get("text_config")) if isinstance(section, Mapping)]
        if not sections or any(section.get("quantization_config") for section in sections):
            return None
        stored = next((name for name in names if name.rpartition(".")[2] in QUANTIZED), None)
        if stored is None:
            return None
        return (
            f"{self.path} holds quantized weights ({stored}), but its config.json has no quantization_config, which "
            "says how to read them; take the config.json that was published with these weights"
        )
