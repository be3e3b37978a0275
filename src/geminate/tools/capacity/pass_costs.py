"""Seconds of forward passes and draft steps on one machine: measured here, or computed from a specification.

A pass over n rows, of which w want logits, behind contexts of some length takes

    body(n) + whole(w) - body(w) + attention

where body(n) is a pass whose rows nobody wants and whole(w) one that wants all of them, both behind `PROFILE_CONTEXT`
positions, and attention is what the positions beyond those add: seconds a byte of keys and values, once a sequence, and
seconds a multiply-accumulate, for every row (`geminate.plan.costs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from geminate.plan.costs import AttentionCosts
from geminate.speculation.costs import PROFILE_CONTEXT, PROFILE_ROWS, CostProfile
from geminate.tools.capacity.figures import Kind

Knots = tuple[tuple[int, float], ...]
"""(rows, seconds), rows ascending from 1; between them times lie on straight lines, behind them on the last one."""


@dataclass(frozen=True, kw_only=True)
class PassCosts:
    """What passes cost. All times are seconds.

    Attributes:
        body, whole: passes whose rows want no logits, and all of whose rows do.
        attention_byte, attention_mac: what keys and values beyond `PROFILE_CONTEXT` positions add to decoding rows.
        prompt_mac: the same of a multiply-accumulate in a part of a prompt.
        draft_call, draft_step: a draft, and each of its steps.
        step, sequence: the engine's own time in a pass, and for each sequence in it.
        decision: of ``auto`` about a draft that is made. request: to begin and end a request.
        prompt_token: what a prompt's token takes beside its row: memory touched for the first time, blocks kept.
        copy_byte: of a byte of keys and values that comes from the prefix cache.
        kind, basis: where all this comes from, in a word and in a sentence.
        error: how far computed times may be from measured ones, as a fraction; 0 where they were measured.
    """

    body: Knots
    whole: Knots
    attention_byte: float
    attention_mac: float
    prompt_mac: float
    draft_call: float
    draft_step: float
    step: float
    sequence: float
    decision: float
    request: float
    prompt_token: float
    copy_byte: float
    kind: Kind
    basis: str
    error: float = 0.0

    def profile(self) -> CostProfile:
        """What the engine's cost model starts from on such a machine."""
        return CostProfile(
            passes=tuple(table(self.whole, PROFILE_ROWS)[1:]),
            draft_step=self.draft_step,
            draft_call=self.draft_call,
            attention_byte=self.attention_byte,
            attention_mac=self.attention_mac,
        )

    def scaled(self, factor: float) -> PassCosts:
        """The same with every time ``factor`` times as long."""
        times = ("attention_byte", "attention_mac", "prompt_mac", "draft_call", "draft_step", "step", "sequence",
                 "decision", "request", "prompt_token", "copy_byte")  # fmt: skip
        stretched = {name: getattr(self, name) * factor for name in times}
        body = tuple((rows, seconds * factor) for rows, seconds in self.body)
        whole = tuple((rows, seconds * factor) for rows, seconds in self.whole)
        return replace(self, body=body, whole=whole, **stretched)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> PassCosts:
        """From JSON.

        Raises:
            ValueError: no pass costs.
        """
        try:
            values = dict(raw)
            for name in ("body", "whole"):
                values[name] = tuple((int(rows), float(seconds)) for rows, seconds in values[name])
            made = cls(**values)
            texts = (made.basis, made.kind)
            times = [float(value) for name, value in values.items() if name not in ("body", "whole", "basis", "kind")]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no pass costs: {error}") from None
        knots = [*made.body, *made.whole]
        if not all(isinstance(text, str) for text in texts) or not all(0 <= t < 3600 for t in times):
            raise ValueError("no pass costs: values out of range")
        begins = [part[0][0] for part in (made.body, made.whole) if part]
        if begins != [1, 1] or not all(0 < t < 3600 for _, t in knots):
            raise ValueError("no pass costs: pass times out of range")
        return made


def table(knots: Knots, most: int) -> list[float]:
    """Seconds by rows, 0 to ``most``; a pass over no rows takes none."""
    times = [0.0] * (most + 1)
    at = 0
    for rows in range(1, most + 1):
        while at + 1 < len(knots) - 1 and rows > knots[at + 1][0]:
            at += 1
        if len(knots) == 1:
            times[rows] = knots[0][1]
            continue
        (left, low), (right, high) = knots[at], knots[at + 1]
        slope = (high - low) / (right - left)
        times[rows] = low + (slope if rows <= right else max(0.0, slope)) * (rows - left)
    return times


class PassTimes:
    """`PassCosts` ready for a simulation's many passes.

    Args:
        decoding, prompt: attention of the whole plan, and up to its last keys and values. draft: of a draft step.
        max_rows: of a pass.
    """

    def __init__(
        self,
        costs: PassCosts,
        *,
        decoding: AttentionCosts,
        prompt: AttentionCosts,
        draft: AttentionCosts | None,
        max_rows: int,
    ) -> None:
        self.costs = costs
        self._body, whole = table(costs.body, max_rows), table(costs.whole, max_rows)
        self._wanted = [max(0.0, b - a) for a, b in zip(self._body, whole, strict=True)]
        self._decoding, self._prompt, self._draft = decoding, prompt, draft

    def dense(self, rows: int, wanted: int) -> float:
        """A pass without the attention beyond the profiled context."""
        return self._body[rows] + self._wanted[wanted]

    def attention(self, start: int, rows: int, wanted: int) -> float:
        """What keys and values of one sequence add: its ``rows`` rows from position ``start`` on."""
        prompt = wanted < rows
        work, seconds = (self._prompt, self.costs.prompt_mac) if prompt else (self._decoding, self.costs.attention_mac)
        last = start + rows - 1
        if last <= PROFILE_CONTEXT:
            return 0.0
        near, end = work.at(PROFILE_CONTEXT), work.at(last)
        middle = end if rows == 1 else work.at(start + rows // 2)
        macs = rows * max(0, middle.macs - near.macs)
        return self.costs.attention_byte * max(0, end.bytes - near.bytes) + seconds * macs

    def pass_time(self, parts: Sequence[tuple[int, int, int]]) -> float:
        """A pass over parts (start, rows, wanted) of sequences."""
        rows, wanted = sum(part[1] for part in parts), sum(part[2] for part in parts)
        return self.dense(rows, wanted) + sum(self.attention(*part) for part in parts)

    def draft_time(self, position: int, steps: int) -> float:
        """A draft of ``steps`` steps behind ``position`` positions."""
        grown = 0.0
        if self._draft is not None and position > PROFILE_CONTEXT:
            near, there = self._draft.at(PROFILE_CONTEXT), self._draft.at(position)
            grown = self.costs.attention_byte * max(0, there.bytes - near.bytes)
            grown += self.costs.attention_mac * max(0, there.macs - near.macs)
        return self.costs.draft_call + steps * (self.costs.draft_step + grown)
