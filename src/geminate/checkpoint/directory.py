"""A model directory: config.json, safetensors, tokenizer.json."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from geminate.checkpoint.checkpoint import Checkpoint, TokenizerParts, check_generation
from geminate.checkpoint.coded_tensors import with_coded
from geminate.checkpoint.entries import Entry
from geminate.checkpoint.json_file import check_regular, read_object
from geminate.checkpoint.missing import what_it_is
from geminate.checkpoint.quantization_config import quantization_scheme, with_quantized
from geminate.checkpoint.safetensors_reader import checkpoint_files, read_files
from geminate.errors import GeminateError, ModelNotFoundError, TokenizerError, WeightsError

MAX_TOKENIZER = 256 << 20
MAX_TEMPLATE = 4 << 20
# Last parts of the names of tensors that only quantized checkpoints have.
QUANTIZED = ("weight_scale", "weight_packed", "embedding_quantized", "qweight", "weight_scale_inv")


class DirectoryCheckpoint(Checkpoint):
    """See `Checkpoint`."""

    @property
    def name(self) -> str:
        """See `Checkpoint`."""
        return self.path.resolve().name

    @property
    def architecture(self) -> str | None:
        """See `Checkpoint`."""
        return None

    @functools.cached_property
    def metadata(self) -> Mapping[str, Any]:
        """See `Checkpoint`."""
        found = read_object(self.path / "config.json")
        if found is None:
            raise ModelNotFoundError(what_it_is(self.path) or f"{self.path} is not a model: it has no config.json")
        return found

    @functools.cached_property
    def generation(self) -> Mapping[str, Any]:
        """See `Checkpoint`."""
        path = self.path / "generation_config.json"
        return check_generation(read_object(path) or {}, path)

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
            config = read_object(self.path / "config.json")
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

    @functools.cached_property
    def _tokenizer_config(self) -> Mapping[str, Any]:
        return read_object(self.path / "tokenizer_config.json", TokenizerError) or {}

    def tokenizer(self) -> TokenizerParts | None:
        """See `Checkpoint`."""
        path = self.path / "tokenizer.json"
        if not path.is_file():
            return None
        check_regular(path, TokenizerError, MAX_TOKENIZER)
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for every kind of damage
            raise TokenizerError(f"cannot read {path}: {error}") from error
        add_bos = self._tokenizer_config.get("add_bos_token") is not False
        return TokenizerParts(backend=backend, specials=self.specials() or None, add_bos=add_bos)

    def specials(self) -> Mapping[str, str]:
        """See `Checkpoint`: the ``*_token`` strings of tokenizer_config.json, plain or as ``{"content": ...}``."""
        found: dict[str, str] = {}
        for name, value in self._tokenizer_config.items():
            if isinstance(value, Mapping):
                value = value.get("content")
            if name.endswith("_token") and isinstance(value, str):
                found[name] = value
        return found

    def write_text_side(self, directory: Path) -> None:
        """See `Checkpoint`."""
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
            if (self.path / name).is_file():
                shutil.copyfile(self.path / name, directory / name)

    def templates(self) -> Mapping[str, str]:
        """See `Checkpoint`.

        chat_template.jinja takes precedence over the ``chat_template`` of tokenizer_config.json, a string or a list of
        ``{"name", "template"}``, as in transformers.
        """
        path = self.path / "chat_template.jinja"
        if path.is_file():
            try:
                check_regular(path, TokenizerError, MAX_TEMPLATE)
                return {"default": path.read_text(encoding="utf-8")}
            except (OSError, UnicodeDecodeError) as error:
                raise TokenizerError(f"cannot read {path}: {error}") from error
        entry = self._tokenizer_config.get("chat_template")
        if entry is None:
            return {}
        if isinstance(entry, str):
            return {"default": entry}
        try:
            found = {str(item["name"]): str(item["template"]) for item in entry}
            if not found:
                raise KeyError("default")
            return found
        except (TypeError, KeyError) as error:
            raise TokenizerError(
                f"{self.path / 'tokenizer_config.json'}: chat_template must be a string or a list of "
                "objects with name and template"
            ) from error
