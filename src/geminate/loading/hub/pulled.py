"""Models that are on this machine: found by name, listed, removed. Nothing here asks the hub."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from geminate.errors import DownloadError, ModelNotFoundError
from geminate.loading.hub.catalogue import catalogue
from geminate.loading.hub.choice import gguf_groups, is_drafter_name, parts_of
from geminate.loading.hub.names import ModelName, drafter_repositories, known_name, suggestions
from geminate.loading.hub.pull import named
from geminate.loading.hub.snapshots import (
    PARTIAL,
    files_in,
    find_pulled,
    folder_of,
    hub_cache,
    repositories,
    snapshots,
    whole,
)
from geminate.sizes import gigabytes

TRASH = ".geminate-removed-"  # a repository on its way out: nothing looks into it


@dataclass(frozen=True, kw_only=True)
class PulledModel:
    """A model or drafter in the cache.

    Attributes:
        name: what `geminate pull` takes; the catalogue's name where it has one. repository: on the hub.
        path: its directory or GGUF file. nbytes: of its files.
        complete: whether all of it is there. drafter: whether its name says that it is a drafter.
    """

    name: str
    repository: str
    path: Path
    nbytes: int
    complete: bool
    drafter: bool


def locate_pulled(text: str, name: ModelName, cache: Path | None = None) -> Path:
    """Where a model of the hub stands on this machine.

    Raises:
        ModelNotFoundError: it is not there, or only partly; names the command that downloads it.
    """
    found = find_pulled(name, cache)
    if found.path is not None:
        return found.path
    if name.known is not None and not name.chosen:
        others = [known_name(f"{name.known.name}:{variant.name}") for variant in name.known.variants]
        there = [(other, path) for other in others if other and (path := find_pulled(other, cache).path)]
        if len(there) == 1:
            return there[0][1]
        if there:
            names = ", ".join(other.text for other, _ in there)
            raise ModelNotFoundError(f"{text}: its usual variant {name.known.default} is not here; name one of {names}")
    if found.problem:
        raise ModelNotFoundError(found.problem)
    if found.partial:
        raise ModelNotFoundError(f"only a part of {text} is on this machine; {name.command} downloads the rest")
    unknown = "is neither a directory here nor a model that was pulled"
    state = unknown if name.known is None else "is not on this machine"
    raise ModelNotFoundError(f"{text} {state}; {name.command} downloads it{_size(name)}")


def unknown_name(text: str) -> str:
    """What to say of a text that is neither on disk nor a name: names that it may have meant, or ""."""
    near = suggestions(text)
    return f"did you mean {' or '.join(near)}? geminate list --catalogue shows all names" if near else ""


def pulled_models(cache: Path | None = None) -> Iterator[PulledModel]:
    """Everything in the cache that looks like a model: GGUF files, and directories with safetensors."""
    for repository, folder in repositories(cache):
        seen: set[str] = set()
        for snapshot in snapshots(folder):
            for model in _in_snapshot(repository, snapshot):
                if model.name not in seen:
                    seen.add(model.name)
                    yield model
        if not seen and any(folder.glob(f"blobs/*{PARTIAL}")):
            size = sum(path.stat().st_size for path in folder.glob(f"blobs/*{PARTIAL}"))
            yield PulledModel(
                name=repository, repository=repository, path=folder, nbytes=size, complete=False, drafter=False
            )


def drafters_left_over(text: str, cache: Path | None = None) -> list[str]:
    """Repositories of a model's drafters that no other model here can use; to be asked before it is removed."""
    name = named(text)
    known = [] if name.variant is None else [name.variant.drafter]
    own = dict.fromkeys([*known, *drafter_repositories(name.repository)])
    here = {model.repository for model in pulled_models(cache)}
    others = {model.repository for model in pulled_models(cache) if not model.drafter} - {name.repository}
    used = {drafter for other in others for drafter in drafter_repositories(other)}
    return [one for one in own if one in here and one not in used and one != name.repository]


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What `remove` took away: names, and bytes of disk that are free again."""

    names: tuple[str, ...]
    nbytes: int


def remove(text: str, cache: Path | None = None) -> Removed:
    """Remove a model from huggingface-hub's cache, with what was downloaded of it in part.

    Files that another model of the repository uses stay. A program that has a removed file open keeps it.

    Raises:
        ModelNotFoundError: it is not there. DownloadError: the cache may not be written.
    """
    name = named(text)
    root = hub_cache() if cache is None else cache
    folder = folder_of(name.repository, root)
    if not folder.is_dir():
        raise ModelNotFoundError(f"{text} is not on this machine")
    try:
        if name.tag:
            return _remove_files(name, folder, _tagged_files(name, folder))
        return _remove_folder(name.repository, folder)
    except OSError as error:
        raise DownloadError(f"cannot remove {error.filename or folder}: {os.strerror(error.errno or 0)}") from None


def _in_snapshot(repository: str, snapshot: Path) -> Iterator[PulledModel]:
    files = files_in(snapshot)
    top = [file for file in files if "/" not in file.path]
    weights = [file for file in top if file.path.endswith(".safetensors")]
    if weights and any(file.path == "config.json" for file in top):
        yield PulledModel(
            name=_short_name(repository, "") or repository,
            repository=repository,
            path=snapshot,
            nbytes=sum(file.nbytes or 0 for file in top),
            complete=whole(snapshot),
            drafter=repository.endswith("-assistant"),
        )
    for group in gguf_groups(files):
        tag = group.quantization or group.name
        if sum(other.quantization == group.quantization for other in gguf_groups(files)) > 1:
            tag = group.name
        yield PulledModel(
            name=_short_name(repository, group.name) or f"{repository}:{tag}",
            repository=repository,
            path=snapshot / group.name,
            nbytes=group.nbytes or 0,
            complete=len(group.files) == group.expected,
            drafter=is_drafter_name(group.name),
        )


def _short_name(repository: str, file: str) -> str | None:
    """The catalogue's name of a repository's directory or file."""
    for model in catalogue():
        for variant in model.variants:
            if variant.repository == repository and (not file if not variant.is_gguf else file in variant.files):
                return f"{model.name}:{variant.name}"
    return None


def _tagged_files(name: ModelName, folder: Path) -> list[str]:
    """The files that a name with a tag means, wherever they stand."""
    low = name.tag.lower()
    for snapshot in snapshots(folder, name.revision):
        for group in gguf_groups(files_in(snapshot)):
            bare = group.name.lower()
            if low in (bare, bare.rpartition("/")[2], group.quantization.lower()) or (
                parts_of(low)[0] in (bare, bare.rpartition("/")[2])
            ):
                return parts_of(group.name)
    raise ModelNotFoundError(f"{name.text} is not on this machine")


def _remove_files(name: ModelName, folder: Path, files: Sequence[str]) -> Removed:
    blobs: set[Path] = set()
    for snapshot in snapshots(folder):
        for file in files:
            pointer = snapshot / file
            if pointer.is_symlink() or pointer.exists():
                blobs.add(pointer.resolve())
                pointer.unlink()
    used = {path.resolve() for path in folder.glob("snapshots/**/*") if path.is_file()}
    freed = 0
    for blob in blobs - used:
        with suppress(FileNotFoundError):
            freed += blob.stat().st_size
            blob.unlink()
    left = [file for file in (path for path in folder.glob("snapshots/**/*.gguf")) if not is_drafter_name(file.name)]
    if not left and not any(folder.glob("snapshots/*/*.safetensors")):
        freed += _remove_folder(name.repository, folder).nbytes  # a drafter that nothing speculates for, remains
    return Removed(names=(name.text,), nbytes=freed)


def _remove_folder(repository: str, folder: Path) -> Removed:
    """Remove a repository. It is renamed first: whatever stops the rest, no half of it is taken for a model."""
    freed = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    trash = Path(tempfile.mkdtemp(dir=folder.parent, prefix=TRASH))
    folder.rename(trash / folder.name)
    shutil.rmtree(trash)
    return Removed(names=(repository,), nbytes=freed)


def _size(name: ModelName) -> str:
    """What is known of a download's size, in brackets; "" for nothing."""
    if name.variant is None:
        return ""
    nbytes, drafter = name.variant.nbytes, name.variant.drafter_nbytes
    if nbytes is None:
        return ""
    more = " and its drafter" if drafter is None else f", its drafter {gigabytes(drafter)}"
    return f" ({gigabytes(nbytes)}{more})"
