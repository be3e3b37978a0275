"""Properties of this machine that training depends on."""

from __future__ import annotations

import torch


def has_fast_bf16(device: str) -> bool:
    """Whether bfloat16 products are faster than float32 ones there."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
