"""What the keys and values of a loaded pair depend on, for stores that outlive the process."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

from geminate.kv.store import ARITHMETIC
from geminate.loading.load import Pair

_NO_MATTER = ("max_position_embeddings", "eos_token_ids", "generation")  # for the numbers at a position


def kv_identity(pair: Pair) -> str:
    """A hash of everything but the prompt: weights, configuration, format of keys and values, arithmetic and backend.

    Instruction set, threads, drafter and chunking are left out: by the numeric contract they change no bit.
    """
    target = pair.target
    config = {name: value for name, value in asdict(target.config).items() if name not in _NO_MATTER}
    # Tensors that stay in the checkpoint have no checksum: name, size and time of its files stand for them.
    stamps = [] if pair.source is None else [stamp[:3] for stamp in pair.source.checkpoint.stamps]
    unchecked = stamps if target.store.unchecked else []
    parts = (
        ARITHMETIC,
        target.kv_format,
        target.backend.name,
        sorted(config.items()),
        target.store.contents,
        unchecked,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()
