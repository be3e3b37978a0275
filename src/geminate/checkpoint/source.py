"""A model's weights, whatever holds them: safetensors, as published or quantized by us, or one GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from geminate.checkpoint.coded_tensors import with_coded
from geminate.checkpoint.entries import Entry
from geminate.checkpoint.gguf_file import read_gguf
from geminate.checkpoint.gguf_tensors import gguf_entries
from geminate.checkpoint.safetensors_reader import checkpoint_files, read_checkpoint


def weight_files(source: Path) -> list[Path]:
    """The files that hold the weights.

    Raises:
        ModelNotFoundError, WeightsError: see their messages.
    """
    return [source] if source.is_file() else checkpoint_files(source)


def read_weights(source: Path) -> Mapping[str, Entry]:
    """Every tensor by its name, GGUF ones by canonical name.

    Raises:
        ModelNotFoundError, WeightsError: nothing there, or a damaged file.
    """
    return gguf_entries(read_gguf(source)) if source.is_file() else with_coded(read_checkpoint(source))
