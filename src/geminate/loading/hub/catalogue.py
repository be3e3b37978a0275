"""The committed catalogue: Gemma 4's sizes under short names, with the repositories and files that hold them.

`assets/catalogue/models.toml` says where sizes and checksums come from; what is not known there is None here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from geminate.sizes import gigabytes

TABLE = Path(__file__).parents[2] / "assets" / "catalogue" / "models.toml"


@dataclass(frozen=True, kw_only=True)
class KnownFile:
    """What is known of a file: bytes and SHA-256, None where they are not."""

    nbytes: int | None = None
    sha256: str | None = None


UNKNOWN = KnownFile()


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One form in which a model is published.

    Attributes:
        name: behind the colon. what: one line for users.
        repository, files: where its weights are.
        drafter: the repository of its drafter, and drafter_files the weights in it.
        preset: the weight format it is served in: ``int4`` for Q4_0, ``q4_k_m``, ``int8``, ``bf16``, ``mobile``; None:
            one that no shape is known in. embeddings: ggml's type of its embeddings, where that is another one.
    """

    name: str
    what: str
    repository: str
    files: tuple[str, ...]
    drafter: str
    drafter_files: tuple[str, ...]
    preset: str | None
    embeddings: str | None = None

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF file rather than a directory."""
        return self.files[0].endswith(".gguf")

    @property
    def nbytes(self) -> int | None:
        """Bytes to download for the target's weights."""
        return total(known_file(self.repository, file).nbytes for file in self.files)

    @property
    def drafter_nbytes(self) -> int | None:
        """Bytes to download for the drafter's weights."""
        return total(known_file(self.drafter, file).nbytes for file in self.drafter_files)

    @property
    def download(self) -> str:
        """Bytes of target and drafter for people, as far as they are known."""
        sizes = (self.nbytes, self.drafter_nbytes)
        return " + ".join("unknown" if size is None else gigabytes(size) for size in sizes)


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model of the catalogue.

    Attributes:
        shape: name of its shape in `tools.bench.shapes`. licence: SPDX identifier.
        gated: whether a licence has to be accepted on the hub first. default: the variant that the bare name means.
    """

    name: str
    shape: str
    licence: str
    gated: bool
    default: str
    variants: tuple[Variant, ...]


def total(sizes: Any) -> int | None:
    """The sum of sizes; None if one of them is not known."""
    known = list(sizes)
    return None if None in known else sum(known)


@cache
def catalogue() -> tuple[KnownModel, ...]:
    """Every model, in the order of the file."""
    return tuple(_model(name, raw) for name, raw in _table()["models"].items())


def known_file(repository: str, file: str) -> KnownFile:
    """What the catalogue knows of a file of a repository."""
    raw = _table()["files"].get(f"{repository}/{file}")
    return UNKNOWN if raw is None else KnownFile(nbytes=raw.get("bytes"), sha256=raw.get("sha256"))


@cache
def _table() -> Mapping[str, Any]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def _model(name: str, raw: Mapping[str, Any]) -> KnownModel:
    return KnownModel(
        name=name,
        shape=raw["shape"],
        licence=raw["licence"],
        gated=raw["gated"],
        default=raw["default"],
        variants=tuple(_variant(key, one) for key, one in raw["variants"].items()),
    )


def _variant(name: str, raw: Mapping[str, Any]) -> Variant:
    return Variant(
        name=name,
        what=raw["what"],
        repository=raw["repository"],
        files=tuple(raw["files"]),
        drafter=raw["drafter"],
        drafter_files=tuple(raw["drafter_files"]),
        preset=raw.get("preset"),
        embeddings=raw.get("embeddings"),
    )
