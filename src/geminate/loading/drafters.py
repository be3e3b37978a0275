"""Finds the drafter of a target, and says in one line what came of it."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from geminate.checkpoint.checkpoint import Checkpoint
from geminate.checkpoint.gguf_file import gguf_architecture
from geminate.checkpoint.packed import PackedCheckpoint, is_packed_path
from geminate.checkpoint.packed_file import SUFFIX
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
from geminate.loading.hub import HUB_ID, from_hub
from geminate.loading.locate import locate_model
from geminate.plan.config import TargetConfig
from geminate.runtime.compatibility import check_fit

LOOKUP = "only text that repeats is drafted (prompt lookup)"
# Drafters are never kept below int8, so Q8_0 loses nothing and is the smallest file that does not.
_PRECISIONS = ("Q8_0", "BF16", "F16", "F32")
_QUANTIZATION = re.compile(r"i?q\d.*|bf16|f16|fp16|f32|qat|ud", re.IGNORECASE)
_DEVICE = re.compile(r"-qat-mobile-(?:transformers|ct)$")
_SHOWN = 3  # drafters that were passed over, by name
WAY_OUT = "name another drafter with --drafter, or --drafter none"


@dataclass(frozen=True, kw_only=True)
class DrafterChoice:
    """What came of looking for a drafter.

    Attributes:
        path: its directory or GGUF file; None for none.
        note: one line for users: which drafter it is, or why there is none and what to do.
    """

    path: Path | None
    note: str


def find_drafter(name: str | Path, source: Path, choice: str | Path | None) -> DrafterChoice:
    """The drafter of a target.

    Args:
        name: what the user called the target. source: where it was found.
        choice: ``auto`` takes the one in the target's packed file, else the first that fits of:
            ``<target>-assistant`` and ``drafter`` or ``assistant`` directories beside or inside the target, GGUF files
            with a drafter beside it or in ``MTP/``, the drafter's snapshot in the hub cache, and for a hub id the hub;
            links are not resolved at first. None or ``none`` is none; anything else is a path or hub id.

    Raises:
        ModelNotFoundError: a drafter named explicitly that is not there.
    """
    if choice is None or choice == "none":
        return DrafterChoice(path=None, note=f"drafter: none, as asked; {LOOKUP}")
    if choice != "auto":
        with drafter_errors():
            path = locate_model(choice)
            path = drafter_within(path) or path
        return DrafterChoice(path=path, note=f"drafter: {path}")
    inside = drafter_within(source)
    if inside is not None:
        return DrafterChoice(path=inside, note=f"drafter: {inside}, packed together with the target")
    search = _Search(Path(os.path.abspath(source)))
    for candidate in search.candidates():
        if search.fits(candidate):
            return DrafterChoice(path=candidate, note=f"drafter: {candidate}{search.passed_over('; ')}")
    return search.on_hub(str(name))


def drafter_within(source: Path) -> Path | None:
    """The drafter that stands beside a target in its packed file; None without one.

    Raises:
        WeightsError: a damaged packed file.
    """
    checkpoint = Checkpoint.open(source) if is_packed_path(source) else None
    return checkpoint.drafter if isinstance(checkpoint, PackedCheckpoint) else None


def drafter_names(target: str) -> list[str]:
    """Names of drafters of a target by its own name, best first.

    Checkpoints for devices have no drafters of their own on the hub; those of the plain weights fit them.
    """
    plain = _DEVICE.sub("", target)
    return [f"{name}-assistant" for name in dict.fromkeys((target, plain))]


class _Search:
    """A search for a drafter that fits.

    Args:
        target: the target's absolute path, links not resolved.
    """

    def __init__(self, target: Path) -> None:
        self.target, self.is_file = target, target.is_file()
        self.misfits: list[str] = []

    @functools.cached_property
    def config(self) -> TargetConfig | None:
        """The target's configuration; None where it cannot be read, which loading will report."""
        try:
            return open_model(self.target).target_config()
        except GeminateError:
            return None

    def candidates(self) -> Iterator[Path]:
        """Places to look at, in order; many do not exist."""
        places = list(dict.fromkeys((self.target, self.target.resolve())))
        for place in places:
            for name in drafter_names(place.name):
                yield place.with_name(name)
            if self.is_file:
                yield place.with_name(place.stem + "-assistant")
                yield place.with_name(place.stem + "-assistant.gguf")
                yield place.with_name(place.stem + "-assistant" + SUFFIX)
            else:
                yield from (place / "drafter", place / "assistant")
            yield from (place.with_name("drafter"), place.with_name("assistant"))
        for place in places:
            yield from self._gguf_files(place)
            yield from _cached_on_hub(place)

    def _gguf_files(self, place: Path) -> Iterator[Path]:
        """GGUF drafters: published names put the quantization last, so no rule leads from one name to the other."""
        folder = place.parent if self.is_file else place
        found = [p for where in (folder, folder / "MTP", folder.parent / "MTP") for p in where.glob("*.gguf")]
        own = _architecture(place) if self.is_file else None
        others = [p for p in found if p != place and (_architecture(p) or _named_drafter(p)) not in ("", own)]
        yield from sorted((p for p in others if _named_drafter(p) or _is_drafter(p)), key=self._rank)

    def _rank(self, path: Path) -> tuple[int, int, str]:
        """Names like the target's first, then by precision."""
        try:
            dtype = max(open_model(path).tensors.values(), key=lambda entry: entry.nbytes).dtype
        except (GeminateError, ValueError):
            dtype = ""
        precision = _PRECISIONS.index(dtype) if dtype in _PRECISIONS else len(_PRECISIONS)
        return -len(_words(self.target) & _words(path)), precision, path.name

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

    def passed_over(self, before: str) -> str:
        """Which drafters do not fit or are damaged, behind ``before``; nothing if there are none."""
        if not self.misfits:
            return ""
        more = f" and {len(self.misfits) - _SHOWN} more" if len(self.misfits) > _SHOWN else ""
        return f"{before}passed over: {', '.join(self.misfits[:_SHOWN])}{more}"

    def on_hub(self, name: str) -> DrafterChoice:
        """The drafter of a hub id, fetched; else none, with what to do."""
        wanted = f"{self.target.name if not self.is_file else self.target.stem}-assistant"
        reason = f"none found beside {self.target}{self.passed_over('; ')}"
        advice = f"put {wanted} beside it or name a drafter with --drafter"
        if HUB_ID.fullmatch(name) and not Path(name).expanduser().exists():
            for repository in drafter_names(name):
                try:
                    path = from_hub(repository)
                    if self.fits(path):
                        return DrafterChoice(path=path, note=f"drafter: {path}")
                    reason = f"none fits{self.passed_over('; ')}"
                except ModelNotFoundError as error:
                    reason = f"none ({error})"
            advice = "name a drafter with --drafter"
        elif self.is_file:
            advice = "put its GGUF file (published as mtp-*.gguf) beside it or into MTP/, or name one with --drafter"
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


def _words(path: Path) -> set[str]:
    """The words of a file's name without those that say how it is quantized."""
    return {word for word in re.split(r"[-. ]", path.stem.lower()) if word and not _QUANTIZATION.fullmatch(word)}


def _architecture(path: Path) -> str:
    """A GGUF file's architecture; "" for what cannot be read."""
    try:
        return gguf_architecture(path)
    except GeminateError:
        return ""


def _named_drafter(path: Path) -> str:
    """What tells a GGUF drafter by its name, as they are published; "" for another file."""
    return "mtp" if path.name.lower().startswith("mtp-") else ""


def _is_drafter(source: Path) -> bool:
    try:
        return source.exists() and open_model(source).is_drafter
    except (GeminateError, OSError):
        return False


def _cached_on_hub(place: Path) -> Iterator[Path]:
    """Snapshots of ``<repository>-assistant`` for a path inside a hub cache: models--OWNER--NAME/snapshots/REVISION."""
    for parent in place.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            for name in drafter_names(parent.parent.name):
                other = parent.parent.with_name(name)
                try:
                    main = (other / "refs" / "main").read_text(encoding="utf-8").strip()
                except (OSError, UnicodeDecodeError):
                    main = ""
                snapshots = sorted((other / "snapshots").glob("*"))
                yield from sorted(snapshots, key=lambda path: path.name != main)


def locate_drafter(name: str | Path, source: Path, choice: str | Path | None) -> Path | None:
    """The path of `find_drafter` alone."""
    return find_drafter(name, source, choice).path
