"""What attention costs at a position, in bytes and multiply-accumulates: what grows with the context."""

from __future__ import annotations

from dataclasses import dataclass

from geminate.plan.nodes import Attention, Plan

ELEMENT_BYTES = 2  # of a float16; seconds per byte are measured with the same count in every KV format


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionWork:
    """Attention of all layers behind one position.

    Attributes:
        bytes: of keys and values, read once in a pass, whatever the number of rows.
        macs: multiply-accumulates of one row, scores and weighted values together.
    """

    bytes: int
    macs: int


class AttentionCosts:
    """The attention of a plan, by position.

    Args:
        plan: whose `Attention` nodes count.
    """

    def __init__(self, plan: Plan) -> None:
        by_window: dict[int, tuple[int, int]] = {}
        for node in plan.nodes:
            if isinstance(node, Attention):
                read, macs = by_window.get(node.window, (0, 0))
                read += 2 * node.kv_heads * node.head_dim * ELEMENT_BYTES
                by_window[node.window] = read, macs + 2 * node.heads * node.head_dim
        self._by_window = [(window, read, macs) for window, (read, macs) in by_window.items()]

    def at(self, position: int) -> AttentionWork:
        """The work of a row at ``position``, which reads ``position`` + 1 keys or its window's."""
        read = macs = 0
        for window, key_bytes, key_macs in self._by_window:
            span = min(position + 1, window) if window else position + 1
            read += span * key_bytes
            macs += span * key_macs
        return AttentionWork(bytes=read, macs=macs)
