"""The text side of a checkpoint in Hugging Face's layout, wherever its small files are kept."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from geminate.checkpoint.checkpoint import Checkpoint, TokenizerParts, check_generation
from geminate.checkpoint.json_file import MAX_JSON, parsed_object
from geminate.errors import ConfigError, GeminateError, TokenizerError

MAX_TOKENIZER = 256 << 20
MAX_TEMPLATE = 4 << 20
TEXT_SIDE = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


class DocumentCheckpoint(Checkpoint):
    """A checkpoint with config.json, tokenizer.json and the like; see `Checkpoint`."""

    @abstractmethod
    def document(self, name: str, error: type[GeminateError], most: int) -> bytes | None:
        """One of the small files; None without it.

        Args:
            error: raised for one that cannot be read. most: bytes that it may have.
        """

    @abstractmethod
    def called(self, name: str) -> str:
        """A small file as messages name it."""

    @property
    def architecture(self) -> str | None:
        """See `Checkpoint`."""
        return None

    def object(self, name: str, error: type[GeminateError] = ConfigError) -> dict[str, Any] | None:
        """The JSON object in a small file; None without it.

        Raises:
            GeminateError: of the given type, if it cannot be read or holds something else.
        """
        raw = self.document(name, error, MAX_JSON)
        return None if raw is None else parsed_object(raw, self.called(name), error)

    @functools.cached_property
    def generation(self) -> Mapping[str, Any]:
        """See `Checkpoint`."""
        return check_generation(self.object("generation_config.json") or {}, self.called("generation_config.json"))

    @functools.cached_property
    def _tokenizer_config(self) -> Mapping[str, Any]:
        return self.object("tokenizer_config.json", TokenizerError) or {}

    def tokenizer(self) -> TokenizerParts | None:
        """See `Checkpoint`."""
        raw = self.document("tokenizer.json", TokenizerError, MAX_TOKENIZER)
        if raw is None:
            return None
        try:
            backend = tokenizers.Tokenizer.from_buffer(raw)
        except Exception as error:  # the library raises bare Exception for every kind of damage
            raise TokenizerError(f"cannot read {self.called('tokenizer.json')}: {error}") from error
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
        for name in TEXT_SIDE:
            raw = self.document(name, TokenizerError, MAX_TOKENIZER)
            if raw is not None:
                (directory / name).write_bytes(raw)

    def templates(self) -> Mapping[str, str]:
        """See `Checkpoint`.

        chat_template.jinja takes precedence over the ``chat_template`` of tokenizer_config.json, a string or a list of
        ``{"name", "template"}``, as in transformers.
        """
        raw = self.document("chat_template.jinja", TokenizerError, MAX_TEMPLATE)
        if raw is not None:
            try:
                return {"default": raw.decode().replace("\r\n", "\n").replace("\r", "\n")}
            except UnicodeDecodeError as error:
                raise TokenizerError(f"cannot read {self.called('chat_template.jinja')}: {error}") from error
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
                f"{self.called('tokenizer_config.json')}: chat_template must be a string or a list of "
                "objects with name and template"
            ) from error
