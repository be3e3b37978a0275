"""Finds the drafter of a target, and says in one line what came of it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from geminate.checkpoint.checkpoint import Checkpoint
from geminate.checkpoint.packed import PackedCheckpoint, is_packed_path
from geminate.errors import (
    ConfigError,
    DrafterMismatchError,
    GeminateError,
    ModelNotFoundError,
    StorageError,
    WeightsError,
)
from geminate.families.base import Model
from geminate.families.registry import open_model
from geminate.loading.drafter_places import Place, drafter_files, is_gguf_folder, places_of, words
from geminate.loading.hub.names import parse_name
from geminate.loading.hub.snapshots import repository_of
from geminate.loading.locate import locate_model
from geminate.plan.config import TargetConfig
from geminate.runtime.compatibility import check_fit

LOOKUP = "only text that repeats is drafted (prompt lookup)"
# Drafters are never kept below int8, so Q8_0 loses nothing and is the smallest file that does not.
_PRECISIONS = ("Q8_0", "BF16", "F16", "F32")
_SHOWN = 3  # drafters that were passed over, by name
WAY_OUT = "name another drafter with --drafter, or --drafter none"


@dataclass(frozen=True, kw_only=True)
class DrafterChoice:
    """What came of looking for a drafter.

    Attributes:
        path: its directory or GGUF file; None for none.
        note: one line for users: which drafter it is, or why there is none and what to do.
        where: how it was found, in a few words: beside the target, in the hub cache, as named; "" for none.
    """

    path: Path | None
    note: str
    where: str = ""


def find_drafter(name: str | Path, source: Path, choice: str | Path | None) -> DrafterChoice:
    """The drafter of a target.

    Args:
        name: what the user called the target. source: where it was found.
        choice: ``auto`` takes the one in the target's packed file, else the first that fits of the places of
            `drafter_places`: beside the target as it was named, beside what links lead to, in folders such as ``MTP/``
            and ``assistant/``, in the hub cache. Nothing is downloaded. None or ``none`` is none; anything else is a
            path or the name of a pulled model.

    Raises:
        ModelNotFoundError: a drafter named explicitly that is not there.
    """
    if choice is None or choice == "none":
        return DrafterChoice(path=None, note=f"drafter: none, as asked; {LOOKUP}")
    search = _Search(Path(os.path.abspath(source)))
    if choice != "auto":
        with drafter_errors():
            path = search.in_folder(choice) or locate_model(choice)
            path = drafter_within(path) or path
        return DrafterChoice(path=path, note=f"drafter: {path}", where="as named")
    inside = drafter_within(source)
    if inside is not None:
        note = f"drafter: {inside}, packed together with the target"
        return DrafterChoice(path=inside, note=note, where="in the packed file")
    for candidate, where in search.candidates():
        if search.fits(candidate):
            also = search.others(candidate)
            note = f"drafter: {candidate}{also}{search.passed_over('; ')}"
            return DrafterChoice(path=candidate, note=note, where=where)
    return search.none(str(name))


def drafter_within(source: Path) -> Path | None:
    """The drafter that stands beside a target in its packed file; None without one.

    Raises:
        WeightsError: a damaged packed file.
    """
    checkpoint = Checkpoint.open(source) if is_packed_path(source) else None
    return checkpoint.drafter if isinstance(checkpoint, PackedCheckpoint) else None


class _Search:
    """A search for a drafter that fits.

    Args:
        target: the target's absolute path, links not resolved.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.misfits: list[str] = []

    @functools.cached_property
    def config(self) -> TargetConfig | None:
        """The target's configuration; None where it cannot be read, which loading will report."""
        try:
            return open_model(self.target).target_config()
        except GeminateError:
            return None

    def candidates(self) -> Iterator[tuple[Path, str]]:
        """Drafters that may be there, in order, with where each stands in words; many do not exist."""
        seen: set[Path] = set()
        for place in places_of(self.target):
            for candidate in self._at(place):
                if candidate not in seen:
                    seen.add(candidate)
                    yield candidate, place.where

    def _at(self, place: Place) -> Iterator[Path]:
        """What a place may hold: itself, or the GGUF drafters in it, best first."""
        if not place.is_folder:
            yield place.path
            return
        found = drafter_files(place.path, self.target, named=place.named)
        yield from sorted(found, key=self._rank)

    def _rank(self, path: Path) -> tuple[int, int, str]:
        """Names like the target's first, then by precision."""
        try:
            dtype = max(open_model(path).tensors.values(), key=lambda entry: entry.nbytes).dtype
        except (GeminateError, ValueError):
            dtype = ""
        precision = _PRECISIONS.index(dtype) if dtype in _PRECISIONS else len(_PRECISIONS)
        return -len(words(self.target) & words(path)), precision, path.name

    def in_folder(self, choice: str | Path) -> Path | None:
        """The best drafter of a folder of GGUF files that was named; None for anything else."""
        folder = Path(choice).expanduser()
        if not is_gguf_folder(folder):
            return None
        found = sorted(drafter_files(folder, self.target, named=False), key=self._rank)
        return next((path for path in found if self.fits(path)), None)

    def fits(self, candidate: Path) -> bool:
        """Whether a drafter that fits stands there; one that does not, or is damaged, is remembered with the reason."""
        try:
            if candidate.is_symlink() and not candidate.exists():
                self.misfits.append(f"{candidate} (a link to {os.readlink(candidate)}, which is not there)")
                return False
            if not (candidate.is_file() or (candidate / "config.json").exists()):
                return False
            drafter = open_model(candidate)
            if not drafter.is_drafter:
                return False
            if self.config is not None:
                check_fit(self.config, drafter.drafter_config())
        except GeminateError as error:
            self.misfits.append(f"{candidate} ({str(error).removeprefix('this drafter does not fit the target: ')})")
            return False
        except OSError:
            return False
        return True

    def others(self, taken: Path) -> str:
        """Which other precisions stand beside a GGUF drafter that was taken, in brackets; "" for none."""
        if not taken.is_file():
            return ""
        beside = [path for path in drafter_files(taken.parent, self.target, named=False) if path != taken]
        alike = sorted((path for path in beside if words(path) == words(taken)), key=self._rank)
        names = ", ".join(path.name for path in alike[:_SHOWN])
        return f" (also there: {names})" if names else ""

    def passed_over(self, before: str) -> str:
        """Which drafters do not fit or are damaged, behind ``before``; nothing if there are none."""
        if not self.misfits:
            return ""
        more = f" and {len(self.misfits) - _SHOWN} more" if len(self.misfits) > _SHOWN else ""
        return f"{before}passed over: {', '.join(self.misfits[:_SHOWN])}{more}"

    def none(self, name: str) -> DrafterChoice:
        """No drafter, with what to do."""
        is_file = self.target.is_file()
        wanted = f"{self.target.stem if is_file else self.target.name}-assistant"
        if is_file:
            advice = "put its GGUF file (published as mtp-*.gguf) beside it or into MTP/, or name one with --drafter"
        else:
            advice = f"put {wanted} beside it or name a drafter with --drafter"
        if parse_name(name) is not None and repository_of(self.target) is not None:
            advice = f"geminate pull {name} downloads the published one, --drafter names another"
        reason = f"none found beside {self.target}{self.passed_over('; ')}"
        return DrafterChoice(path=None, note=f"drafter: {reason}; {LOOKUP}. To speculate with a drafter, {advice}")


@contextmanager
def drafter_errors(path: Path | None = None) -> Iterator[None]:
    """What is wrong with a drafter names the way out, and its ``path`` if given."""
    try:
        yield
    except StorageError:
        raise  # another drafter would not help
    except (ConfigError, DrafterMismatchError, ModelNotFoundError, WeightsError) as error:
        where = "" if path is None or str(path) in str(error) else f"{path}: "
        raise type(error)(f"{where}{error}; {WAY_OUT}") from None


def check_drafter(target: TargetConfig, drafter: Model) -> None:
    """Check a drafter that was chosen, before anything is packed.

    Raises:
        DrafterMismatchError: it does not fit.
    """
    check_fit(target, drafter.drafter_config())


def locate_drafter(name: str | Path, source: Path, choice: str | Path | None) -> Path | None:
    """The path of `find_drafter` alone."""
    return find_drafter(name, source, choice).path
