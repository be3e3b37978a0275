"""From what a user names (a directory, a GGUF or packed file, a pulled model, nothing) to what stands on disk."""

from __future__ import annotations

import os
from pathlib import Path

from geminate.checkpoint.gguf_file import gguf_architecture, is_gguf
from geminate.checkpoint.gguf_parts import first_part
from geminate.checkpoint.missing import what_it_is
from geminate.checkpoint.packed import is_packed_path
from geminate.checkpoint.packed_file import SUFFIX
from geminate.errors import GeminateError, ModelNotFoundError
from geminate.families.registry import open_model
from geminate.loading.hub.names import known_name, parse_name
from geminate.loading.hub.pulled import locate_pulled, unknown_name
from geminate.loading.hub.snapshots import find_pulled

EMBEDDED = "embedded"  # names the pair inside this package; a directory of that name is ./embedded
_LISTED = 6  # GGUF files of a folder, by name


def embedded_pair() -> tuple[Path, Path]:
    """Directories of the target and the drafter inside this package.

    Raises:
        ModelNotFoundError: an installation without them.
    """
    root = Path(__file__).resolve().parent.parent / "assets" / "embedded"
    target, drafter = root / "target", root / "drafter"
    if not (target / "config.json").exists():
        raise ModelNotFoundError("this installation has no embedded pair; reinstall geminate or name a model")
    return target, drafter


def is_model(text: str) -> bool:
    """Whether a text names a model: a GGUF or packed file, a directory with one or with a model's files, a name of the
    catalogue, or a hub id that was pulled."""
    try:
        path = Path(text).expanduser()
        if is_gguf(path) or is_packed_path(path):
            return True
        if any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
            return True
        if any(path.glob("*.gguf")) or any(path.glob(f"*{SUFFIX}")) or known_name(text) is not None:
            return True
        name = parse_name(text)
        return name is not None and find_pulled(name).path is not None
    except (OSError, RuntimeError, ValueError):  # too long or too odd for a path
        return False


def locate_model(name: str | Path) -> Path:
    """The directory, GGUF or packed file of a model named by its path, or by the name under which it was pulled.

    Nothing is downloaded.

    Raises:
        ModelNotFoundError: with the cause and the way out; of a model that was not pulled, the command that does it.
    """
    text = str(name)
    if not text:
        raise ModelNotFoundError("an empty model name; give a directory, or a name as in geminate pull gemma-4-E2B-it")
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return _in_directory(path)
        if is_packed_path(path):
            return path
        exists, gguf = path.exists(), is_gguf(path)
    except (OSError, RuntimeError) as error:  # too long, unreadable, or ~ of a user that is not there
        cause = getattr(error, "strerror", None) or str(error)
        raise ModelNotFoundError(f"cannot look for a model at {_short(text)}: {cause}") from None
    if not exists and path.is_symlink():
        raise ModelNotFoundError(f"{name} is a link to {os.readlink(path)}, which is not there")
    if gguf or (exists and path.suffix == ".gguf"):
        return path  # a damaged one is reported by its reader
    if exists:
        raise ModelNotFoundError(
            f"{name} is a file, but no GGUF or packed file; a model is one of these, or a directory with config.json"
        )
    known = None if text.lower().endswith(SUFFIX) else parse_name(text)
    if known is None:
        raise ModelNotFoundError(_no_such(text))
    return locate_pulled(text, known)


def _in_directory(directory: Path) -> Path:
    """A model directory itself, or the one GGUF target or packed file in it.

    Raises:
        ModelNotFoundError: several of them, or no whole model.
    """
    if (directory / "config.json").is_file() and any(directory.glob("*.safetensors")):
        return directory
    targets = [*_gguf_targets(directory), *sorted(directory.glob(f"*{SUFFIX}"))]
    if len(targets) == 1:
        return targets[0]
    if targets:
        names = ", ".join(path.name for path in targets[:_LISTED]) + (", ..." if len(targets) > _LISTED else "")
        kinds = "GGUF" if all(path.suffix == ".gguf" for path in targets) else "GGUF or packed"
        raise ModelNotFoundError(f"{directory} holds {len(targets)} {kinds} models; name one of the files: {names}")
    if not (directory / "config.json").is_file() and (problem := what_it_is(directory)):
        raise ModelNotFoundError(problem)
    return directory


def _gguf_targets(directory: Path) -> list[Path]:
    """GGUF files of a directory that are neither drafters nor of a kind that is not known (vision projectors)."""
    usable: dict[str, bool] = {}
    targets = []
    for path in sorted(directory.glob("*.gguf")):
        if first_part(path) != path:
            continue  # of a file in several parts, which the first stands for
        try:
            architecture = gguf_architecture(path)
            if architecture not in usable:
                usable[architecture] = not open_model(path).is_drafter
        except GeminateError:
            usable.setdefault(path.name, False)
            architecture = path.name
        if usable[architecture]:
            targets.append(path)
    # A damaged file that is alone is the one that is meant: its reader says what is wrong.
    alone = list(directory.glob("*.gguf"))
    return targets or (alone if len(alone) == 1 and not _is_other_gguf(alone[0]) else [])


def _is_other_gguf(path: Path) -> bool:
    try:
        return bool(gguf_architecture(path))
    except GeminateError:
        return False


def _no_such(text: str) -> str:
    """What to say of a name that is neither on disk nor one of the hub."""
    if text.lower().endswith((".gguf", SUFFIX)):
        return f"no such file: {text}"
    hint = unknown_name(text)
    if ":" in text and "/" not in text:
        more = hint or "name a directory, a .gguf file, or a model of 'geminate list --catalogue'"
        return f"no such directory: {text} (names like Ollama's are not known; {more})"
    return f"no such directory: {text} ({hint or 'a hub id looks like google/gemma-4-E2B-it'})"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")
