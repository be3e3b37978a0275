"""Where drafters stand, as they are published and as people put them, in the order in which they are looked for.

1. Beside the target as it was named: ``NAME-assistant`` (a directory, or a GGUF file for a GGUF target), and inside or
   beside it ``drafter/`` and ``assistant/``. The same beside everything that links lead to on the way to the target.
2. GGUF drafters beside the target and in ``MTP/``, ``assistant/`` and ``drafter/``, by what their headers say.
   For a target in a folder of its own, such as ``Q4_K_M/`` of split files, those one folder up too.
3. The hub cache that holds the target: the repositories that are published as its drafters.
4. The user's hub cache: the same by the target's name, then any drafter there; names like the target's first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from geminate.checkpoint.gguf_file import gguf_architecture
from geminate.checkpoint.packed_file import SUFFIX
from geminate.errors import GeminateError
from geminate.families.registry import open_model
from geminate.loading.hub.choice import is_drafter_name
from geminate.loading.hub.choice import words as name_words
from geminate.loading.hub.names import drafter_names, drafter_repositories
from geminate.loading.hub.snapshots import folder_of, hub_cache, repositories, repository_of, snapshots

FOLDERS = ("MTP", "mtp", "assistant", "drafter")
LINKS = 16  # that are followed on the way to a target
BESIDE, FOLDER, CACHE = "beside the target", "in a folder of the target", "in the hub cache"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place where a drafter may stand.

    Attributes:
        path: a directory or GGUF file that may be a drafter; if is_folder, a folder whose GGUF files may be.
        named: whether only files that are named like drafters count. where: in words.
    """

    path: Path
    where: str
    is_folder: bool = False
    named: bool = False


def places_of(target: Path) -> Iterator[Place]:
    """All places, in order; many do not exist.

    Args:
        target: its absolute path, links not resolved.
    """
    is_file = target.is_file()
    steps = list(link_steps(target))
    for step in steps:
        yield from _beside(step, is_file)
    for step in steps:
        yield from _folders(step, is_file)
    for step in steps:
        yield from _in_its_cache(step)
    yield from _in_users_cache(target, steps)


def link_steps(target: Path) -> list[Path]:
    """A path, what it links to, what that links to, and so on; the last one is where the files are."""
    steps, at = [target], target
    for _ in range(LINKS):
        try:
            if not at.is_symlink():
                break
            at = Path(os.path.normpath(at.parent / os.readlink(at)))
        except OSError:
            break
        steps.append(at)
    with suppress(OSError, RuntimeError):  # a loop
        steps.append(target.resolve())
    return list(dict.fromkeys(steps))


def drafter_files(folder: Path, target: Path, *, named: bool) -> list[Path]:
    """GGUF files of a folder that are drafters, or are named like ones.

    Args:
        target: is left out, and so are files of its architecture. named: leave out what is not named like a drafter.
    """
    try:
        files = sorted(folder.glob("*.gguf"))
    except OSError:
        return []
    own = _architecture(target) if files and target.is_file() else None
    found = []
    for path in files:
        if path == target or (_architecture(path) or named_drafter(path)) in ("", own):
            continue
        if named_drafter(path) or (not named and is_drafter(path)):
            found.append(path)
    return found


def is_gguf_folder(folder: Path) -> bool:
    """Whether a folder holds GGUF files and is no model directory."""
    try:
        return folder.is_dir() and not (folder / "config.json").exists() and any(folder.glob("*.gguf"))
    except (OSError, RuntimeError):
        return False


def named_drafter(path: Path) -> str:
    """What tells a GGUF drafter by its name or folder, as they are published; "" for another file."""
    return "mtp" if path.name.lower().startswith("mtp-") or path.parent.name.lower() == "mtp" else ""


def is_drafter(source: Path) -> bool:
    """Whether a drafter stands there; False for what cannot be read."""
    try:
        return source.exists() and open_model(source).is_drafter
    except (GeminateError, OSError):
        return False


def words(path: Path) -> set[str]:
    """The words of a file's or directory's name without those that say how it is quantized; of a snapshot in a hub
    cache, the repository's."""
    repository = repository_of(path)
    if path.suffix != ".gguf" and repository is not None:
        return name_words(repository)
    return name_words(path.name)


def _beside(place: Path, is_file: bool) -> Iterator[Place]:
    for name in drafter_names(place.name):
        yield Place(path=place.with_name(name), where=BESIDE)
    if is_file:
        yield Place(path=place.with_name(place.stem + "-assistant"), where=BESIDE)
        yield Place(path=place.with_name(place.stem + "-assistant.gguf"), where=BESIDE)
        yield Place(path=place.with_name(place.stem + "-assistant" + SUFFIX), where=BESIDE)
    else:
        yield Place(path=place / "drafter", where=FOLDER)
        yield Place(path=place / "assistant", where=FOLDER)
    yield Place(path=place.with_name("drafter"), where=BESIDE)
    yield Place(path=place.with_name("assistant"), where=BESIDE)


def _folders(place: Path, is_file: bool) -> Iterator[Place]:
    folder = place.parent if is_file else place
    yield Place(path=folder, where=BESIDE, is_folder=True)
    for name in FOLDERS:
        yield Place(path=folder / name, where=FOLDER, is_folder=True)
    yield Place(path=folder.parent, where="one folder up", is_folder=True, named=True)
    for name in FOLDERS[:2]:
        yield Place(path=folder.parent / name, where=FOLDER, is_folder=True)


def _in_its_cache(place: Path) -> Iterator[Place]:
    """Drafters of a target inside a hub cache: models--OWNER--NAME/snapshots/REVISION."""
    for parent in place.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            repository = repository_of(parent.parent)
            if repository is not None:
                yield from _of_repositories(drafter_repositories(repository), parent.parent.parent)


def _in_users_cache(target: Path, steps: Iterable[Path]) -> Iterator[Place]:
    """Drafters in the user's hub cache: those published for the target's name, then any."""
    cache = hub_cache()
    for step in steps:
        name = re.sub(r"\.gguf$", "", step.name)
        yield from _of_repositories(drafter_repositories(f"google/{name}"), cache)
    wanted = words(target)
    any_drafter = [repository for repository, _ in repositories(cache) if is_drafter_name(repository)]
    yield from _of_repositories(sorted(any_drafter, key=lambda name: -len(name_words(name) & wanted)), cache)


def _of_repositories(names: Iterable[str], cache: Path) -> Iterator[Place]:
    for repository in names:
        for snapshot in snapshots(folder_of(repository, cache)):
            yield Place(path=snapshot, where=CACHE)
            yield Place(path=snapshot, where=CACHE, is_folder=True)


def _architecture(path: Path) -> str:
    """A GGUF file's architecture; "" for what cannot be read."""
    try:
        return gguf_architecture(path)
    except GeminateError:
        return ""
