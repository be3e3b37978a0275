"""How a model is loaded: one declaration for `LLM`, the command line and the server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geminate.errors import ParameterError, shown
from geminate.kv.prefix_store import DEFAULT_BYTES
from geminate.kv.store import KVFormat, check_kv
from geminate.loading.locate import EMBEDDED
from geminate.runtime.drafter import ROPE_POSITIONS, RopePosition
from geminate.sizes import parse_size
from geminate.weights.presets import Preset, check_preset


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Which pair to load, and how.

    A field's metadata make its command-line option: ``help``, ``flags`` (default: the name with dashes), ``empty``
    (what None means), ``none`` (the word for None).

    Attributes:
        model: directory, GGUF or packed file, or the name of a pulled model; None, or ``embedded``, is the embedded
            pair (./embedded a directory).
        adapter: LoRA adapters in PEFT's layout that are merged into the target: directories, each perhaps with
            ``=WEIGHT`` behind it.
        drafter: ``auto`` (found beside the model), ``embedded``, a directory, GGUF or packed file, pulled model, or
            None for none.
        weights: ``bf16``, ``int8``, ``int4``, ``int4+``, ``mobile`` (of a checkpoint for devices only), or ``auto``:
            the file's own grid if it has one, else int8. The drafter is never kept below int8.
        kv: keys and values in float16 (``f16``) or ``int8``, which takes about half the memory.
        threads: worker threads; None is what `geminate.cores.pick_threads` picks.
        prefill_chunk: maximum number of prompt tokens in one forward pass, 1 to 4096.
        rope_position: the drafter's rotary position, ``P`` (transformers) or ``P-1`` (LiteRT-LM, vLLM); changes
            acceptance, never the output.
        use_cache, cache_dir: whether packed weights are kept on disk, and where; None is the user's cache directory.
        verify_weights: compare packed weights with their checksums before a token depends on them, at every start: what
            all passes read at once, rows of tables when they are first read; damaged files of the cache are packed
            again. None: everything, at the first use of a packed file on this machine. False: never.
        prefault: load all weights into memory now, so that the first answer does not wait for the disk.
        max_context: tokens that prompt and completion together may have; None is the model's own limit.
        prefix_store: directory in which the KV cache of prompts is kept across restarts; None keeps none.
        prefix_store_bytes: bound of that directory, an integer or a size such as ``512MiB``.

    Raises:
        ParameterError: a value outside its range.
    """

    model: str | Path | None = field(
        default=None,
        metadata={
            "help": "Directory, GGUF or .geminate file, or pulled model.",
            "flags": ("--model", "-m"),
            "empty": "the embedded pair",
        },
    )
    drafter: str | Path | None = field(
        default="auto",
        metadata={
            "help": "auto, none, embedded, or a directory, GGUF or .geminate file, or pulled model.",
            "none": "none",
        },
    )
    adapter: str | Path | Sequence[str | Path] = field(
        default=(),
        metadata={
            "help": "Directory of a LoRA adapter (PEFT) to merge into the model, or DIR=WEIGHT; repeatable.",
            "empty": "none",
        },
    )
    weights: Preset = field(
        default="auto",
        metadata={
            "help": "Weight format: bf16, int8, int4 or int4+; auto: keep the file's own quantization (Q4_0, Q8_0, "
            "K-quants, mobile) if it has one, otherwise int8; mobile: 2, 4 and 8 bits, of checkpoints made for devices "
            "only."
        },
    )
    kv: KVFormat = field(
        default="f16", metadata={"help": "Format of the KV cache: f16, or int8, which takes about half the memory."}
    )
    threads: int | None = field(
        default=None, metadata={"help": "Number of worker threads.", "empty": "fast physical cores"}
    )
    prefill_chunk: int = 256
    rope_position: RopePosition = field(
        default="P", metadata={"help": "Rotary position used by the drafter: P or P-1."}
    )
    use_cache: bool = field(
        default=True, metadata={"help": "Do not keep packed weights on disk.", "flags": ("--no-cache",)}
    )
    cache_dir: str | Path | None = None
    verify_weights: bool | None = field(
        default=None,
        metadata={
            "help": "Compare packed weights with their checksums before a token depends on them, at every start.",
            "flags": ("--verify-weights/--no-verify-weights",),
            "empty": "at the first use of a .geminate file",
        },
    )
    prefault: bool = field(
        default=False,
        metadata={"help": "Load all weights into memory at start, so the first answer does not wait for the disk."},
    )

    max_context: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of prompt and completion together, at most.",
            "flags": ("--max-context", "--ctx-size", "-c"),
            "empty": "the model's limit",
        },
    )
    prefix_store: str | Path | None = field(
        default=None,
        metadata={
            "help": "Directory that keeps the KV cache of prompts across restarts; it holds what was asked, see the "
            "page on security.",
            "empty": "none",
        },
    )
    prefix_store_bytes: int | str = field(
        default=DEFAULT_BYTES,
        metadata={"help": "Limit of the prefix store; the least recently used goes first.", "empty": "4 GiB"},
    )

    @property
    def adapters(self) -> tuple[str | Path, ...]:
        """`adapter` as it is after the checks."""
        assert isinstance(self.adapter, tuple)
        return self.adapter

    def __post_init__(self) -> None:
        if self.model == EMBEDDED:
            object.__setattr__(self, "model", None)
        named = (self.adapter,) if isinstance(self.adapter, str | Path) else tuple(self.adapter)
        if not all(isinstance(one, str | Path) and str(one) for one in named):
            raise ParameterError(f"adapter must be directories, not {shown(self.adapter)}")
        object.__setattr__(self, "adapter", named)
        check_preset(self.weights)
        check_kv(self.kv)
        if self.rope_position not in ROPE_POSITIONS:
            raise ParameterError(f"rope_position must be 'P' or 'P-1', not {self.rope_position!r}")
        if not 1 <= self.prefill_chunk <= 4096:
            raise ParameterError(f"prefill_chunk must be 1 to 4096, not {self.prefill_chunk}")
        limit = self.max_context
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 2):
            raise ParameterError(f"max_context must be an integer from 2, not {limit!r}")
        if self.prefix_store is not None and not os.fspath(self.prefix_store):
            raise ParameterError("prefix_store is empty; name a directory, or leave the option out")
        size = self.prefix_store_bytes
        if isinstance(size, str):
            size = parse_size("prefix_store_bytes", size)
            object.__setattr__(self, "prefix_store_bytes", size)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ParameterError(f"prefix_store_bytes must be a positive number of bytes, not {size!r}")
        if self.prefix_store is None and size != DEFAULT_BYTES:
            raise ParameterError("prefix_store_bytes limits a prefix store, and none is named (--prefix-store)")
