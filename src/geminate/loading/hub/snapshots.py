"""What the hub cache on this machine holds, read without the hub: ``models--OWNER--NAME/snapshots/COMMIT/FILE``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from geminate.errors import ModelNotFoundError
from geminate.loading.hub.choice import (
    AmbiguousNameError,
    MissingPartsError,
    RemoteFile,
    choose,
    gguf_groups,
    is_drafter_name,
    parts_of,
)
from geminate.loading.hub.names import ModelName

PARTIAL = ".geminate.incomplete"  # ends the names of files that are being downloaded, or whose download was cut
_FOLDER = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)")


def hub_cache() -> Path:
    """huggingface-hub's cache directory, as HF_HUB_CACHE and HF_HOME say."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of looking for a model in the cache.

    Attributes:
        path: its directory or GGUF file; None if it is not there as a whole.
        partial: whether a part of it is.
        problem: why the name does not choose one of several, in a sentence; "" if it does.
    """

    path: Path | None
    partial: bool = False
    problem: str = ""


def folder_of(repository: str, cache: Path | None = None) -> Path:
    """Where the cache keeps a repository."""
    return (hub_cache() if cache is None else cache) / f"models--{repository.replace('/', '--')}"


def repository_of(path: Path) -> str | None:
    """The repository that a path inside a hub cache belongs to; None for other paths."""
    for part in (path, *path.parents):
        found = _FOLDER.fullmatch(part.name)
        if found is not None:
            return f"{found['owner']}/{found['name']}"
    return None


def snapshots(folder: Path, revision: str = "main") -> list[Path]:
    """The snapshots of a repository: that of the revision first, then the newest. Empty if there are none."""
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError, ValueError):
        commit = revision
    try:
        found = [path for path in (folder / "snapshots").iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted(found, key=lambda path: (path.name != commit, -_modified(path), path.name))


def find_pulled(name: ModelName, cache: Path | None = None) -> Found:
    """The newest whole copy of a model in the cache."""
    folder = folder_of(name.repository, cache)
    places = snapshots(folder, name.revision)
    if name.revision != "main":
        places = [place for place in places[:1] if _is_revision(folder, place, name.revision)]
    problem, partial = "", any(folder.glob(f"blobs/*{PARTIAL}"))
    for place in places:
        try:
            found = _in_snapshot(place, name)
        except AmbiguousNameError as error:
            problem = problem or str(error)
            continue
        except MissingPartsError:
            partial = True
            continue
        except ModelNotFoundError:  # another file of the repository was downloaded
            continue
        if found is not None:
            return Found(path=found)
        partial = True
    return Found(path=None, partial=partial and not problem, problem=problem)


def whole(directory: Path) -> bool:
    """Whether a model directory has its configuration and every file of its weights."""
    index = directory / "model.safetensors.index.json"
    if not (directory / "config.json").is_file():
        return False
    if not index.exists():
        return any(path.is_file() for path in directory.glob("*.safetensors"))
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return all((directory / str(file)).is_file() for file in files)


def repositories(cache: Path | None = None) -> Iterator[tuple[str, Path]]:
    """Every repository of models in the cache, with its folder."""
    root = hub_cache() if cache is None else cache
    try:
        folders = sorted(root.iterdir())
    except OSError:
        return
    for folder in folders:
        found = _FOLDER.fullmatch(folder.name)
        if found is not None and folder.is_dir():
            yield f"{found['owner']}/{found['name']}", folder


def files_in(snapshot: Path) -> list[RemoteFile]:
    """The files of a snapshot whose contents are there."""
    found = []
    for path in sorted(snapshot.rglob("*")):
        try:
            if path.is_file():
                found.append(RemoteFile(path=path.relative_to(snapshot).as_posix(), nbytes=path.stat().st_size))
        except OSError:
            continue
    return found


def _in_snapshot(place: Path, name: ModelName) -> Path | None:
    """The model in a snapshot; None if it is not whole there.

    Raises:
        ModelNotFoundError: the name does not choose one of several, or there is no such file.
    """
    files = files_in(place)
    if not name.tag and any("/" not in file.path and file.path.endswith(".safetensors") for file in files):
        return place if whole(place) else None
    if not name.tag:
        targets = [group for group in gguf_groups(files) if not is_drafter_name(group.name)]
        whole_ones = [group for group in targets if len(group.files) == group.expected]
        if not whole_ones:
            return None
        if len(whole_ones) == 1:
            return place / whole_ones[0].name
    choice = choose(name.repository, files, name.tag)
    return place / choice.main if all((place / part).is_file() for part in parts_of(choice.main)) else None


def _is_revision(folder: Path, place: Path, revision: str) -> bool:
    return place.name == revision or (folder / "refs" / revision).is_file()


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
