"""A GGUF file as a checkpoint."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geminate.checkpoint.checkpoint import Checkpoint, TokenizerParts, check_generation
from geminate.checkpoint.gguf_file import GgufFile, read_gguf
from geminate.checkpoint.gguf_parts import first_part, whole_name
from geminate.checkpoint.gguf_tensors import GgufEntry
from geminate.checkpoint.gguf_tokenizer import gguf_specials, gguf_templates, gguf_tokenizer


class GgufCheckpoint(Checkpoint):
    """See `Checkpoint`; of a file in several parts, any part names the whole, and ``path`` is the first.

    Attributes:
        file: the header, for families to read their configuration from.
    """

    def __init__(self, path: Path) -> None:
        self.file: GgufFile = read_gguf(path)
        super().__init__(first_part(path) if len(self.file.parts) > 1 else path)

    @property
    def name(self) -> str:
        """See `Checkpoint`."""
        return whole_name(self.path)

    @property
    def architecture(self) -> str | None:
        """See `Checkpoint`."""
        return self.file.architecture

    @property
    def metadata(self) -> Mapping[str, Any]:
        """See `Checkpoint`."""
        return self.file.metadata

    @property
    def generation(self) -> Mapping[str, Any]:
        """See `Checkpoint`: the sampling that a file recommends (``general.sampling``), if it does."""
        found = {
            ours: self.file.metadata[f"general.sampling.{theirs}"]
            for ours, theirs in (("temperature", "temp"), ("top_k", "top_k"), ("top_p", "top_p"))
            if f"general.sampling.{theirs}" in self.file.metadata
        }
        return check_generation({"do_sample": True, **found} if found else {}, self.path)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `Checkpoint`."""
        return self.file.parts if len(self.file.parts) > 1 else (self.path,)

    @functools.cached_property
    def tensors(self) -> Mapping[str, GgufEntry]:
        """See `Checkpoint`."""
        whole = len(self.file.parts) == 1
        return {
            name: GgufEntry(
                name=name,
                dtype=t.dtype,
                shape=t.shape,
                path=self.path if whole else t.path,
                offset=t.offset,
                nbytes=t.nbytes,
            )
            for name, t in self.file.tensors.items()
        }

    def tokenizer(self) -> TokenizerParts | None:
        """See `Checkpoint`."""
        made = gguf_tokenizer(self.file)
        return None if made is None else TokenizerParts(backend=made[0], specials=made[1] or None, add_bos=made[2])

    def write_text_side(self, directory: Path) -> None:
        """See `Checkpoint`."""
        config: dict[str, Any] = {}
        parts = self.tokenizer()
        if parts is not None:
            (directory / "tokenizer.json").write_text(parts.backend.to_str(), encoding="utf-8")
            config = {**(parts.specials or {}), "add_bos_token": parts.add_bos}
        if templates := self.templates():
            config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
        if config:
            text = json.dumps(config, indent=2) + "\n"
            (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")

    def templates(self) -> Mapping[str, str]:
        """See `Checkpoint`."""
        return gguf_templates(self.file)

    def specials(self) -> Mapping[str, str]:
        """See `Checkpoint`."""
        return gguf_specials(self.file)

    def licence(self) -> Mapping[str, str]:
        """See `Checkpoint`: ``general.license`` and what goes with it."""
        keys = {"name": ("general.license.name", "general.license"), "link": ("general.license.link",)}
        found = {key: next((v for name in names if isinstance(v := self.file.metadata.get(name), str)), "")
                 for key, names in keys.items()}  # fmt: skip
        return {key: value for key, value in found.items() if value}
