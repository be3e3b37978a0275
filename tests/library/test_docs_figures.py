"""Figures of the docs that can be computed are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from geminate.tools.bench.random_weights import streamed_bytes
from geminate.tools.bench.shapes import SHAPES, load_shape

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = 8192


@pytest.mark.parametrize("shape", SHAPES)
def test_memory_of_the_models(shape: str) -> None:
    target, drafter, _ = load_shape(shape, None)
    assert drafter is not None
    # Keys and values are float16; sliding layers keep their window.
    kept = sum(
        2 * 2 * layer.kv_heads * layer.head_dim * min(CONTEXT, layer.window or CONTEXT)
        for layer in target.layers
        if not layer.kv_shared
    )
    cells = [f"{streamed_bytes(target, weights) / 1e9:.1f} GB" for weights in ("int4", "int8", "bf16")]
    cells += [f"{streamed_bytes(drafter, 'int8') / 1e9:.1f} GB", f"{kept / 1e9:.2f} GB"]
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {shape.removeprefix('gemma-4-')} \| (.*) \|$", page, re.MULTILINE)
    assert row is not None and row[1].split(" | ") == cells, cells


@pytest.mark.parametrize("shape", ["gemma-4-E2B", "gemma-4-E4B"])
def test_bytes_of_the_mobile_format(shape: str) -> None:
    target, _, _ = load_shape(shape, None)
    cells = [f"{streamed_bytes(target, weights) / 1e9:.2f} GB" for weights in ("mobile", "int4")]
    page = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
    assert f"| {shape.removeprefix('gemma-4-')} | {' | '.join(cells)} |" in page
