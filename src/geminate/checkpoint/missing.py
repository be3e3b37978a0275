"""What a directory is that is no whole model: the message for whoever named it."""

from __future__ import annotations

from pathlib import Path

from geminate.checkpoint.json_file import read_object
from geminate.errors import GeminateError, shown


def what_it_is(directory: Path) -> str | None:
    """Why a directory without a model's configuration or weights is none, and the way out.

    Returns:
        None if it holds nothing that can be named.
    """
    if (directory / "adapter_config.json").is_file():
        return _adapter(directory)
    files = sorted(path.name for path in directory.glob("*.gguf"))
    if files:
        return (
            f"{directory} is no model: none of its GGUF files is one that can be loaded ({', '.join(files[:5])}); "
            "name the .gguf file of the model"
        )
    inside = sorted(path.parent.name for path in directory.glob("*/config.json"))
    if inside:
        return f"{directory} is not a model: it has no config.json; did you mean {directory / inside[0]}?"
    return None


def _adapter(directory: Path) -> str:
    try:
        config = read_object(directory / "adapter_config.json") or {}
    except GeminateError:
        config = {}
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    of = f" of {shown(base)}" if isinstance(base, str) and base else ""
    return (
        f"{directory} is an adapter ({kind if isinstance(kind, str) else 'LoRA'}){of}, not a whole model: name "
        f"its base, and this with --adapter {directory}"
    )
