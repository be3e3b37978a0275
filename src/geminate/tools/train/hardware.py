"""Properties of this machine that training depends on."""

from __future__ import annotations

import torch

from geminate.errors import ParameterError


def chosen_device(name: str) -> str:
    """The device of ``auto``: cuda where torch sees one, else the CPU; others are taken as they are.

    Raises:
        ParameterError: torch sees no such device.
    """
    found = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if found else "cpu"
    if name != "cpu" and not found:
        raise ParameterError(f"--device {name}: torch sees no such device; use cpu")
    return name


def has_fast_bf16(device: str) -> bool:
    """Whether bfloat16 products are faster than float32 ones there."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
