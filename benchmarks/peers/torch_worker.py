"""transformers in bf16 answering the line protocol: the real E2B shape with random weights made in memory.

Usage: PEERS/bin/python torch_worker.py [--threads 2] [--layers N]

Needs 9.3 GB of memory. Eager, attention as transformers chooses it, a DynamicCache cut back after each step.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
import transformers
from e2b_shape import LAYERS, text_config
from line_protocol import BEHIND, PREFIX, serve, token_ids
from transformers import DynamicCache, Gemma4ForCausalLM, Gemma4TextConfig
from transformers.initialization import no_init_weights

NOISE = (1 << 22) + 9  # odd, so that equal rows of a table are far apart
SPREAD = 0.02


def random_model(layers: int) -> Gemma4ForCausalLM:
    """The text model with norms of one; its matrices repeat a block of noise, which is filled in fast."""
    config = Gemma4TextConfig(**text_config(layers))
    with no_init_weights():
        model: Gemma4ForCausalLM = Gemma4ForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    block = torch.randn(NOISE, generator=torch.Generator().manual_seed(0)).mul_(SPREAD).to(torch.bfloat16)
    for parameter in model.parameters():
        flat = parameter.data.view(-1)
        if parameter.dim() == 1:
            flat.fill_(1.0)
            continue
        whole = flat.numel() // NOISE * NOISE
        if whole:
            flat[:whole].view(-1, NOISE).copy_(block)
        flat[whole:].copy_(block[: flat.numel() - whole])
    model.eval()
    return model


class TorchEngine:
    """A model and a cache holding the prefix."""

    def __init__(self, layers: int) -> None:
        self.model = random_model(layers)
        self.size = PREFIX + BEHIND
        self.ids = torch.tensor([token_ids(self.size)])
        self.cache, _ = self._prefill(PREFIX)
        self.checked: set[int] = set()

    def _prefill(self, tokens: int) -> tuple[DynamicCache, float]:
        cache = DynamicCache(config=self.model.config)
        began = time.perf_counter()
        self.model(self.ids[:, :tokens], past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache, (time.perf_counter() - began) * 1e3

    def step(self, rows: int) -> float:
        """Milliseconds of M rows behind the prefix."""
        ids = self.ids[:, PREFIX : PREFIX + rows]
        began = time.perf_counter()
        logits = self.model(ids, past_key_values=self.cache, use_cache=True).logits
        spent = (time.perf_counter() - began) * 1e3
        if rows not in self.checked:
            if logits.shape[1] != rows or not torch.isfinite(logits).all():
                raise RuntimeError(f"step of {rows} rows: logits {tuple(logits.shape)}, or not finite")
            self.checked.add(rows)
        self.cache.crop(-rows)
        if self.cache.get_seq_length() != PREFIX:
            raise RuntimeError(f"the cache holds {self.cache.get_seq_length()} tokens after a step")
        return spent

    def prefill(self, tokens: int) -> float:
        """Milliseconds of N tokens from nothing, in a cache of their own."""
        return self._prefill(tokens)[1]


def main() -> int:
    """Make the model and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer layers, for quick trials")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        engine = TorchEngine(args.layers)
        unique = {id(p): p for p in engine.model.parameters()}.values()
        ready = {
            "engine": "transformers", "version": transformers.__version__, "torch": torch.__version__,
            "dtype": "bfloat16", "attention": engine.model.config._attn_implementation, "threads": args.threads,
            "layers": args.layers, "file_bytes": 0, "weight_bytes": sum(p.nbytes for p in unique),
            "system_info": torch.backends.cpu.get_cpu_capability(),
        }  # fmt: skip
        serve(engine, ready)
    return 0


if __name__ == "__main__":
    sys.exit(main())
