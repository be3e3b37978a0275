"""Tokens a second to expect of one stream, plain and speculating, and the arithmetic that leads there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from geminate.speculation.costs import CostProfile
from geminate.tools.capacity.figures import number
from geminate.tools.capacity.here import Here
from geminate.tools.capacity.machines import Machine
from geminate.tools.capacity.pass_costs import PassCosts, PassTimes
from geminate.tools.capacity.roofline import DECISION, KERNEL_SHARE, MULTIPLY, READ, SEQUENCE, STEP
from geminate.tools.capacity.work import ModelWork

POSITION = 1000  # tokens of context behind which the rates are computed
MAX_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one stream does.

    Attributes:
        plain: tokens a second without drafts. pass_s: seconds of such a pass.
        length: the draft length with the most tokens a second; 0: drafts do not pay, or there is no drafter.
        speculating: tokens a second with it. round_s: seconds of such a round, tokens: what it yields on average.
        rows_s: seconds of its pass over ``length`` + 1 rows, draft_s: of its draft.
        costs: of passes. survival: chance that the first 1, 2, ... draft tokens are all accepted.
    """

    plain: float
    pass_s: float
    length: int
    speculating: float
    round_s: float
    tokens: float
    rows_s: float
    draft_s: float
    costs: PassCosts
    survival: tuple[float, ...]


def expected_speed(work: ModelWork, costs: PassCosts, survival: Sequence[float]) -> Speed:
    """The rates of one stream behind `POSITION` tokens.

    A round of k draft tokens yields 1 + s_1 + ... + s_k tokens and takes a pass over k + 1 rows, k draft steps, and the
    engine's own time; the best k is taken, as ``auto`` does.
    """
    draft = None if work.draft is None else work.draft.attention
    times = PassTimes(costs, decoding=work.whole.attention, prompt=work.body.attention, draft=draft, max_rows=MAX_ROWS)
    own = costs.step + costs.sequence
    one = times.pass_time([(POSITION, 1, 1)])
    best = (1.0 / (one + own), 0, one + own, 1.0, one, 0.0)
    tokens = 1.0
    for k, chance in enumerate(survival if work.draft is not None else (), 1):
        tokens += chance
        rows = times.pass_time([(POSITION, k + 1, k + 1)])
        drafting = times.draft_time(POSITION, k)
        seconds = rows + drafting + own + costs.decision
        if tokens / seconds > best[0]:
            best = (tokens / seconds, k, seconds, tokens, rows, drafting)
    speed, length, seconds, won, rows, drafting = best
    return Speed(
        plain=1.0 / (one + own), pass_s=one, length=length, speculating=speed, round_s=seconds, tokens=won,
        rows_s=rows, draft_s=drafting, costs=costs, survival=tuple(survival),
    )  # fmt: skip


def costs_of(profile: CostProfile, basis: str) -> PassCosts:
    """Pass costs out of what the engine measured of a pair when it was loaded."""
    knots = tuple(enumerate(profile.passes, 1))
    return PassCosts(
        body=knots,
        whole=knots,
        attention_byte=profile.attention_byte,
        attention_mac=profile.attention_mac,
        prompt_mac=profile.attention_mac,
        draft_call=profile.draft_call,
        draft_step=profile.draft_step,
        step=STEP,
        sequence=SEQUENCE,
        decision=DECISION,
        request=0.0,
        prompt_token=0.0,
        copy_byte=0.0,
        kind="measured",
        basis=basis,
    )


def arithmetic(speed: Speed, work: ModelWork, here: Here | None, acceptance: str) -> list[str]:
    """The steps from the machine's rates to tokens a second, a line each.

    Args:
        here: the machine; None where its passes were measured. acceptance: where the chances come from.
    """
    costs = speed.costs
    lines = [_machine(here, costs) if here is not None else f"passes were measured here: {costs.basis}"]
    own = costs.step + costs.sequence
    if here is not None and costs.kind == "computed":
        lines.append(_token(work, here.machine))
    lines.append(
        f"plain: a pass over one row behind {POSITION:,} tokens takes {_ms(speed.pass_s)}, the engine {_ms(own)}: "
        f"1 / {_ms(speed.pass_s + own)} = {number(speed.plain)} tokens a second"
    )
    if not speed.survival:
        return lines
    if not speed.length:
        return [*lines, f"speculating: drafts do not pay here with acceptance {acceptance}; auto will not draft"]
    chances = " + ".join(f"{chance:.2f}" for chance in speed.survival[: speed.length])
    lines.append(
        f"speculating with {speed.length} draft token{'s' * (speed.length > 1)}: a pass over {speed.length + 1} rows "
        f"({_ms(speed.rows_s)}), the draft ({_ms(speed.draft_s)}) and the engine take {_ms(speed.round_s)} for "
        f"1 + {chances} = {speed.tokens:.2f} tokens: {number(speed.speculating)} tokens a second. "
        f"Acceptance: {acceptance}; it depends on the text"
    )
    return lines


def _machine(here: Here, costs: PassCosts) -> str:
    machine = here.machine
    error = f"; such figures may be up to {costs.error:.0%} off" if costs.error else ""
    if not here.quiet:
        error += ". Something else ran meanwhile: the rates are too low, and were not kept"
    return (
        f"this machine: {machine.cores} threads read {number(machine.bandwidth_gbs)} GB/s and do "
        f"{machine.int8_gmacs:,.0f} G int8 multiply-accumulates a second ({machine.kernels}, probed {here.probed})"
        f"{error}"
    )


def _token(work: ModelWork, machine: Machine) -> str:
    """What a token costs by the roofline: the longer of reading and multiplying."""
    read, macs = work.whole.read(1), work.whole.macs
    bandwidth = machine.bandwidth_gbs * 1e9 * READ
    rate = machine.int8_gmacs * 1e9 * MULTIPLY * KERNEL_SHARE[machine.kernels]
    return (
        f"a token reads {read / 1e9:.2f} GB of weights: / ({READ:.0%} of {number(machine.bandwidth_gbs)} GB/s) = "
        f"{_ms(read / bandwidth)}; its {macs / 1e9:.2f} G multiply-accumulates take "
        f"{_ms(macs / rate)} at {rate / 1e9:,.0f} G a second; the longer counts"
    )


def _ms(seconds: float) -> str:
    return f"{number(seconds * 1e3)} ms"
