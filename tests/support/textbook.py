"""Sampling by the book, in plain Python: sort everything, one token at a time. The oracle of the tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from geminate.params import ResolvedSampling


def processed(
    logits: Sequence[float], s: ResolvedSampling, prompt: Sequence[int], output: Sequence[int]
) -> list[float]:
    """Logits after bias and penalties."""
    x = [float(v) for v in logits]
    for token, amount in s.logit_bias:
        x[token] += amount
    for token in range(len(x)):
        if token in prompt or token in output:
            x[token] *= s.repetition_penalty if x[token] < 0 else 1 / s.repetition_penalty
        n = list(output).count(token)
        x[token] -= s.frequency_penalty * n + (s.presence_penalty if n else 0.0)
    return x


def law(logits: Sequence[float], s: ResolvedSampling, prompt: Sequence[int], output: Sequence[int]) -> dict[int, float]:
    """Token id -> probability, of the tokens that are possible."""
    x = processed(logits, s, prompt, output)
    order = sorted(range(len(x)), key=lambda i: (-x[i], i))
    if s.temperature == 0:
        return {order[0]: 1.0}
    order = order[: s.top_k or None]
    weight = {i: math.exp((x[i] - x[order[0]]) / s.temperature) for i in order}
    total = math.fsum(weight.values())
    kept: list[int] = []
    for i in order:
        if not kept or math.fsum(weight[j] for j in kept) / total < s.top_p or s.top_p == 1:
            kept.append(i)
        else:
            break
    kept = [i for i in kept if weight[i] >= s.min_p and weight[i] > 0]
    total = math.fsum(weight[i] for i in kept)
    return {i: weight[i] / total for i in sorted(kept)}
