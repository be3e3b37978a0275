"""A model on disk behind one face: a directory, a GGUF file or a packed file; parts are read once, when needed."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from geminate.checkpoint.adapter import Adapter
from geminate.checkpoint.entries import Entry
from geminate.errors import ConfigError, ParameterError
from geminate.params import SamplingParams


@dataclass(frozen=True, kw_only=True)
class TokenizerParts:
    """What a tokenizer is made from.

    Attributes:
        backend: the library's object.
        specials: ``bos_token`` and others by their text; None where the checkpoint names none.
        add_bos: whether bos goes before texts.
    """

    backend: tokenizers.Tokenizer
    specials: Mapping[str, str] | None
    add_bos: bool


def check_generation(values: Mapping[str, Any], path: Path | str) -> Mapping[str, Any]:
    """The sampling that a file recommends, if every request can be answered with it.

    Raises:
        ConfigError: a value outside its range; names the file.
    """
    try:
        SamplingParams().resolved(values)
    except ParameterError as error:
        raise ConfigError(f"{path}: {str(error).removeprefix('generation_config ')}") from None
    return values


class Checkpoint(ABC):
    """One model's files.

    Attributes:
        path: the directory or the file.
        adapters: what is to be merged into the weights; `geminate.families.base.Model.tensors` has them merged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.adapters: tuple[Adapter, ...] = ()

    @staticmethod
    def open(path: str | Path, adapters: Sequence[Adapter] = ()) -> Checkpoint:
        """The checkpoint at a path; a file is a packed file or a GGUF file, anything else a directory.

        Nothing but a file's header is read before it is asked for. The drafter in a packed file has the path
        ``FILE/drafter``.

        Raises:
            WeightsError: a file that is neither, or is damaged.
        """
        from geminate.checkpoint.directory import DirectoryCheckpoint
        from geminate.checkpoint.gguf import GgufCheckpoint
        from geminate.checkpoint.packed import PackedCheckpoint, is_packed_path

        place = Path(path)
        found: Checkpoint
        if is_packed_path(place):
            found = PackedCheckpoint(place)
        else:
            is_file = place.exists() and not place.is_dir()
            found = GgufCheckpoint(place) if is_file else DirectoryCheckpoint(place)
        found.adapters = tuple(adapters)
        return found

    @property
    @abstractmethod
    def name(self) -> str:
        """The model's name as the path has it."""

    @property
    @abstractmethod
    def architecture(self) -> str | None:
        """GGUF's word for the kind of model; None where config.json's ``model_type`` says it."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, Any]:
        """config.json, or a GGUF file's metadata.

        Raises:
            ModelNotFoundError: a directory without config.json. ConfigError: a damaged one.
        """

    @property
    @abstractmethod
    def generation(self) -> Mapping[str, Any]:
        """generation_config.json, or what a GGUF file recommends in its terms; empty without any.

        Raises:
            ConfigError: a damaged file, or values outside their range.
        """

    @property
    @abstractmethod
    def tensors(self) -> Mapping[str, Entry]:
        """Every tensor by its stored name; codes and scales of `geminate quantize` as one.

        Raises:
            ModelNotFoundError, WeightsError: no weights, or damaged ones.
        """

    def undeclared(self) -> str | None:
        """What to say of quantized weights whose configuration does not say how to read them; None otherwise."""
        return None

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """The files that hold the weights.

        Raises:
            ModelNotFoundError, WeightsError: none, or one is missing.
        """

    @abstractmethod
    def tokenizer(self) -> TokenizerParts | None:
        """The tokenizer; None without one.

        Raises:
            TokenizerError: a damaged one.
        """

    @abstractmethod
    def templates(self) -> Mapping[str, str]:
        """Chat templates by name, the main one as ``default``; empty without any.

        Raises:
            TokenizerError: a damaged file.
        """

    @abstractmethod
    def specials(self) -> Mapping[str, str]:
        """Special tokens that templates read, by name; empty where the checkpoint names none."""

    @abstractmethod
    def write_text_side(self, directory: Path) -> None:
        """Write tokenizer and chat templates into a model directory.

        Raises:
            OSError: it cannot be written. TokenizerError: a damaged tokenizer.
        """

    def licence(self) -> Mapping[str, str]:
        """What the files say of the licence: ``name``, ``link``, ``text``; empty where they say nothing."""
        return {}

    @functools.cached_property
    def origin(self) -> Mapping[str, Any]:
        """Where it comes from: ``name``, ``hub`` and ``revision`` of a snapshot of the hub, ``files``: [name, bytes].

        Raises:
            ModelNotFoundError, WeightsError: see `files`.
        """
        found: dict[str, Any] = {"name": self.name}
        for parent in self.path.absolute().parents:
            if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
                found["hub"] = parent.parent.name.removeprefix("models--").replace("--", "/")
                found["revision"] = self.path.absolute().relative_to(parent).parts[0]
        return {**found, "files": [stamp[:2] for stamp in self.stamps]}

    @functools.cached_property
    def stamps(self) -> list[list[Any]]:
        """[name, bytes, modification time and change time in ns, inode] of every weight file, adapters included.

        Copying with times kept (cp -p, rsync -t) leaves name, size and modification time as they were.
        """
        stats = [(file.name, file.stat()) for file in self.files]
        own = [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in stats]
        return own + [adapter.stamp for adapter in self.adapters]

    @property
    def place(self) -> str:
        """Hash of where the checkpoint and its adapters stand, for the names of files that belong to them."""
        merged = "".join(f"\n{adapter.path.resolve()}={adapter.weight!r}" for adapter in self.adapters)
        return hashlib.sha256(f"{self.path.resolve()}{merged}".encode()).hexdigest()[:8]
