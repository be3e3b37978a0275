"""The arithmetic of one row, step by step."""

from __future__ import annotations

from collections.abc import Iterator

from geminate.tools.capacity.figures import number
from geminate.tools.capacity.pass_costs import PassTimes
from geminate.tools.capacity.report import CapacityPlan
from geminate.tools.capacity.roofline import READ, SPECIFIED
from geminate.tools.capacity.sizing import NEAR_PEAK, USABLE, Sizing, day_tokens
from geminate.tools.capacity.workload import DAY_S

PROMPT = 256


def explain(row: Sizing, plan: CapacityPlan) -> list[str]:
    """Lines, each with its numbers and where they come from (m: measured, c: computed, a: assumed)."""
    return [*_model(row), *_passes(row), *_memory(row), *_load(row, plan), *_cost(row, plan)]


def _model(row: Sizing) -> Iterator[str]:
    work, machine = row.candidate.work, row.machine
    kind = "m" if machine.is_here else "a"
    yield f"{row.candidate.label} on {machine.name}, speculation {row.speculation}"
    yield (
        f"machine: {machine.cores} cores, {machine.int8_gmacs:,.0f} G int8 multiply-accumulates/s, "
        f"{number(machine.bandwidth_gbs)} GB/s, {number(machine.memory_gb)} GB ({kind}"
        + (f"; {machine.source})" if machine.source and not machine.is_here else ")")
    )
    yield (
        f"plan: a row reads {work.whole.read(1) / 1e9:.3f} GB of weights and takes {work.whole.macs / 1e9:.3f} G "
        f"multiply-accumulates, a prompt's row without logits {work.body.macs / 1e9:.3f} G (c)"
    )
    if work.draft is not None:
        yield f"a draft step reads {work.draft.bytes / 1e6:.1f} MB (c)"
    if row.candidate.survival:
        chances = ", ".join(f"{s:.2f}" for s in row.candidate.survival)
        yield f"acceptance: the first 1, 2, ... draft tokens are right with {chances} ({row.candidate.acceptance})"


def _passes(row: Sizing) -> Iterator[str]:
    costs, work = row.costs, row.candidate.work
    mark = "m" if costs.kind == "measured" else "c"
    error = f", up to {costs.error:.0%} off" if costs.error else ""
    yield f"pass costs: {costs.basis}{error} ({mark})"
    draft = None if work.draft is None else work.draft.attention
    times = PassTimes(
        costs, decoding=work.whole.attention, prompt=work.body.attention, draft=draft, max_rows=PROMPT + 16
    )
    one, five, prompt = times.dense(1, 1), times.dense(5, 5), times.dense(PROMPT, 1)
    if costs.kind == "computed":
        machine = row.machine
        rate = machine.bandwidth_gbs * 1e9 * (1.0 if machine.is_here else SPECIFIED) * READ
        yield (
            f"one row: {work.whole.read(1) / 1e9:.3f} GB / {rate / 1e9:.1f} GB/s = "
            f"{work.whole.read(1) / rate * 1e3:.1f} ms, if its multiply-accumulates take no longer; threads meet "
            f"{work.whole.nodes:,} times (c)"
        )
    yield (
        f"a pass takes {one * 1e3:.1f} ms for one row, {five * 1e3:.1f} ms for five, {prompt * 1e3:.0f} ms for "
        f"{PROMPT} rows of a prompt: at most {1 / (one + costs.step + costs.sequence):.1f} tokens a second of a stream "
        f"without drafts, {PROMPT / prompt:,.0f} prompt tokens a second ({mark})"
    )
    far = times.attention(8192, 1, 1)
    yield (
        f"behind 8,192 tokens a row takes {far * 1e3:.1f} ms more; the engine itself takes "
        f"{(costs.step + costs.sequence) * 1e3:.2f} ms a step, a draft step {costs.draft_step * 1e3:.2f} ms ({mark})"
    )


def _memory(row: Sizing) -> Iterator[str]:
    memory = row.memory
    yield (
        f"memory: weights {memory.weights / 1e9:.2f} GB + KV budget {memory.kv / 1e9:.2f} GB + process "
        f"{memory.process / 1e9:.2f} GB = {memory.total / 1e9:.2f} GB of {memory.usable / 1e9:.2f} GB, which is "
        f"{USABLE:.0%} of {number(row.machine.memory_gb)} GB (c)"
    )


def _load(row: Sizing, plan: CapacityPlan) -> Iterator[str]:
    workload, wanted = plan.workload, plan.objectives
    yield (
        f"load: {number(workload.requests_per_day)} requests a day / {DAY_S:,.0f} s = {number(workload.mean_rate)} a "
        f"second on average, x {workload.peak_factor:.2f} in the busiest hour = {number(workload.peak_rate)} (a)"
    )
    if row.idle is not None:
        yield (
            f"one client alone: first token after {row.idle.first_token(0.95):.3f} s (p95), "
            f"{row.idle.stream_rate(0.5):.1f} tokens a second (c, simulated)"
        )
    if row.broken:
        yield f"not met: {row.broken}"
    if row.peak is None:
        return
    yield (
        f"never idle, one machine ends {number(row.saturation_rate)} requests a second; from {NEAR_PEAK:.0%} of that "
        f"down, bisection finds {number(row.capacity_rate)} a second within first token p95 <= "
        f"{wanted.first_token_p95_s:g} s and {wanted.tokens_per_s:g} tokens a second for 95 % of the streams "
        "(c, simulated)"
    )
    yield (
        f"machines: {number(workload.peak_rate)} / {number(row.capacity_rate)} a second, rounded up and confirmed by "
        f"the busiest hour = {row.machines:,}"
        + (f"; {row.with_spares:,} with spares" if row.with_spares > row.machines else "")
    )
    peak = row.peak
    share = 100 * peak.reused / max(1, peak.prompt_tokens)
    yield (
        f"busiest hour on one of them: {len(peak.served):,} requests in {peak.seconds:,.0f} s, {peak.passes:,} passes, "
        f"{peak.acceptance_length:.2f} tokens a round, {share:.0f} % of prompt tokens from the prefix cache, "
        f"{peak.refused} refused (c, simulated)"
    )


def _cost(row: Sizing, plan: CapacityPlan) -> Iterator[str]:
    prices, machine, cost = plan.prices, row.machine, row.cost
    if cost is None or row.peak is None:
        return
    yield f"utilisation over the day: {row.utilisation:.1%} of each machine (c)"
    if cost.kwh is not None and machine.watts is not None:
        idle = machine.watts if machine.idle_watts is None else machine.idle_watts
        yield (
            f"energy: {row.with_spares} x ({idle:g} W + {row.utilisation:.3f} x ({machine.watts:g} - {idle:g}) W) "
            f"x 24 h x {prices.pue:g} = {number(cost.kwh)} kWh a day at {prices.energy_per_kwh:g} {prices.currency} (a)"
        )
    if cost.total is None:
        yield "cost: this machine has no price or no watts"
        return
    hardware = (
        f"{machine.rent_per_hour:g} an hour"
        if machine.rent_per_hour is not None
        else f"{machine.price or 0:g} / ({prices.years:g} x 365 days)"
    )
    tokens = day_tokens(plan.workload, len(row.peak.served) or 1, plan.seed)
    yield (
        f"cost: {row.with_spares} x {hardware} + energy + {prices.operations_per_day:g} for operations = "
        f"{number(cost.total)} {prices.currency} a day, / {(tokens.prompt + tokens.completion) / 1e6:,.2f} M tokens = "
        f"{number(cost.per_million or 0)} a million (c from assumed prices)"
    )
    if cost.cloud is not None:
        even = (
            "at these prices this fleet is never cheaper"
            if cost.break_even is None
            else f"this fleet is cheaper from {number(cost.break_even)} requests a day on"
        )
        price = f"{number(cost.cloud)} {prices.currency} a day"
        yield f"cloud: the same tokens cost {price} at the stated price; {even} (c)"
