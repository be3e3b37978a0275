"""Pass costs of a machine that is not here: a roofline over the plan's bytes and multiply-accumulates.

A pass takes the longer of reading its weights and of its multiply-accumulates, and threads meet behind every
operation, which counts on many cores. The shares of both peaks that are
reached come from the measurements under benchmarks/step-*.json, and so does the stated error: the largest deviation of
this roofline from any of them, which `tests/tools/capacity/test_roofline.py` holds it to.
"""

from __future__ import annotations

import math

from geminate.kv.store import KVFormat
from geminate.tools.capacity.machines import Machine
from geminate.tools.capacity.pass_costs import Knots, PassCosts
from geminate.tools.capacity.work import ModelWork, RowWork

SPECIFIED = 0.8  # share of a specified memory bandwidth that a read probe shows; assumed
READ = 0.97  # share of the probed bandwidth that weights are read with, E2B
MULTIPLY = 0.62  # share of the int8 peak, passes of a few rows
FLOAT = 4  # int8 multiply-accumulates in the time of one in float32
MANY = 0.88  # of that, passes over more than `FEW` rows: prompts
FEW = 17
KERNEL_SHARE = {"avx512": 1.0, "avxvnni": 0.9, "avx2": 0.8, "portable": 0.35}  # of that; all but the first are assumed
ATTENTION = {"f16": 0.24, "int8": 0.6}  # multiply-accumulates of attention against the int8 peak
KV_BYTES = (
    0.6  # of the time of the bytes that `AttentionCosts` counts: reading hides behind multiplying, or int8 has half
)
ERROR = 0.45
PROBED = 1.0
ROWS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 17, 24, 32, 48, 64, 96, 128, 192, 272)
# The engine's own seconds at `OWN_GHZ`, measured on Zen 4 with the embedded pair.
OWN_GHZ = 3.5
STEP, SEQUENCE, DECISION, REQUEST, PROMPT_TOKEN, CALL = 40e-6, 30e-6, 60e-6, 400e-6, 3e-6, 20e-6
MEET = 1e-6  # for threads to meet behind an operation, times log2(cores + 1); assumed
CACHE_COPY = 0.3  # of the bandwidth, for keys and values out of the prefix cache


def roofline(work: ModelWork, machine: Machine, kv: KVFormat = "f16", *, probed: bool = False) -> PassCosts:
    """Pass costs by the roofline.

    Args:
        probed: the machine's bandwidth is what a read probe showed, not a specification.
    """
    bandwidth = machine.bandwidth_gbs * 1e9 * (PROBED if probed else SPECIFIED)
    share = KERNEL_SHARE[machine.kernels]
    rate = machine.int8_gmacs * 1e9 * MULTIPLY * share
    byte, mac = _attention(bandwidth, machine.int8_gmacs * 1e9 * share, kv)
    own = OWN_GHZ / machine.ghz
    step = 0.0 if work.draft is None else _seconds(work.draft, 1, bandwidth, rate)
    meet = MEET * math.log2(machine.cores + 1) * own
    return PassCosts(
        body=_knots((work.body,), bandwidth, rate, meet),
        whole=_knots((work.body, work.tail), bandwidth, rate, meet),
        attention_byte=byte,
        attention_mac=mac,
        prompt_mac=mac,
        draft_call=0.0 if work.draft is None else CALL * own,
        draft_step=step,
        step=STEP * own,
        sequence=SEQUENCE * own,
        decision=DECISION * own,
        request=REQUEST * own,
        prompt_token=PROMPT_TOKEN * own,
        copy_byte=1.0 / (CACHE_COPY * bandwidth),
        kind="computed",
        basis=_basis(machine, probed, share),
        error=ERROR,
    )


def _basis(machine: Machine, probed: bool, share: float) -> str:
    how = "probed here" if probed else f"specified, {SPECIFIED:.0%} of it reached"
    return (
        f"roofline: {READ:.0%} of the memory bandwidth ({machine.bandwidth_gbs:g} GB/s {how}) and "
        f"{MULTIPLY * share:.0%} of the int8 peak ({machine.int8_gmacs:,.0f} G multiply-accumulates a second)"
    )


def _seconds(work: RowWork, rows: int, bandwidth: float, rate: float) -> float:
    reached = rate if rows <= FEW else MANY * rate
    return max(work.read(rows) / (READ * bandwidth), rows * (work.macs + (FLOAT - 1) * work.float_macs) / reached)


def _knots(parts: tuple[RowWork, ...], bandwidth: float, rate: float, meet: float) -> Knots:
    fixed = meet * sum(part.nodes for part in parts)
    return tuple((rows, fixed + sum(_seconds(part, rows, bandwidth, rate) for part in parts)) for rows in ROWS)


def _attention(bandwidth: float, peak: float, kv: KVFormat) -> tuple[float, float]:
    """Seconds of a byte of keys and values and of a multiply-accumulate."""
    return KV_BYTES / bandwidth, 1.0 / (ATTENTION[kv] * peak)
