"""From what a user names (a directory, a GGUF file, a hub id, nothing) to what stands on disk."""

from __future__ import annotations

from pathlib import Path

from geminate.checkpoint.gguf_file import is_gguf
from geminate.errors import GeminateError, ModelNotFoundError
from geminate.families.registry import open_model
from geminate.loading.hub import HUB_ID, from_hub


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
    """Whether a text names a model on disk: a GGUF file, or a directory with a config.json."""
    try:
        path = Path(text).expanduser()
        return is_gguf(path) or (path / "config.json").is_file()
    except (OSError, RuntimeError, ValueError):  # too long or too odd for a path
        return False


def locate_model(name: str | Path) -> Path:
    """The directory or GGUF file of a model named by path or hub id.

    A hub id is fetched with huggingface-hub into its cache (HF_HUB_OFFLINE is honoured).

    Raises:
        ModelNotFoundError: with the cause and the way out.
    """
    text = str(name)
    if not text:
        raise ModelNotFoundError("an empty model name; give a directory or a hub id like google/gemma-4-E2B-it")
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        exists, gguf = path.exists(), is_gguf(path)
    except (OSError, RuntimeError) as error:  # too long, unreadable, or ~ of a user that is not there
        cause = getattr(error, "strerror", None) or str(error)
        raise ModelNotFoundError(f"cannot look for a model at {_short(text)}: {cause}") from None
    if gguf or (exists and path.suffix == ".gguf"):
        return path  # a damaged one is reported by its reader
    if exists:
        raise ModelNotFoundError(f"{name} is a file, but no GGUF; a model is that, or a directory with config.json")
    if not HUB_ID.fullmatch(text):
        raise ModelNotFoundError(f"no such directory: {name} (a hub id looks like google/gemma-4-E2B-it)")
    return from_hub(text)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")


def _is_drafter(source: Path) -> bool:
    try:
        return source.exists() and open_model(source).is_drafter
    except GeminateError:
        return False


def locate_drafter(name: str | Path, source: Path, choice: str | Path | None) -> Path | None:
    """The drafter's directory or GGUF file, or None for no drafter.

    Args:
        name: what the user called the target. source: where it was found.
        choice: ``auto`` looks for ``<target>-assistant`` beside the target (and, for a hub id, on the hub),
            then for a ``drafter`` or ``assistant`` directory beside or inside it; for a GGUF file also for one other
            GGUF beside it that holds a drafter; None is none; anything else is a path or hub id.

    Raises:
        ModelNotFoundError: a drafter named explicitly that is not there.
    """
    if choice is None:
        return None
    if choice != "auto":
        return locate_model(choice)
    beside = source.resolve()
    candidates = [
        beside.with_name(beside.name + "-assistant"),
        beside.with_name(beside.stem + "-assistant"),
        beside.with_name(beside.stem + "-assistant.gguf"),
        beside / "drafter",
        beside / "assistant",
        beside.with_name("drafter"),
        beside.with_name("assistant"),
    ]
    for candidate in candidates:
        if _is_drafter(candidate):
            return candidate
    if source.is_file():
        # Published names put the quantization last, so no rule leads from one file's name to the other's.
        found = [p for p in sorted(beside.parent.glob("*.gguf")) if p != beside and _is_drafter(p)]
        return found[0] if len(found) == 1 else None
    if not Path(name).expanduser().exists() and HUB_ID.fullmatch(str(name)):
        try:
            return from_hub(f"{name}-assistant")
        except ModelNotFoundError:
            return None
    return None
