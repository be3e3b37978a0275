"""``geminate demo``."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.console import Group as Stack
from rich.live import Live
from rich.table import Table
from rich.text import Text

from geminate import __version__, machine
from geminate.cli.console import Bars, err, out, user_errors, write_json
from geminate.cli.flags import JsonOpt, loading, options
from geminate.tools.bench.decode import engine_of_shape, random_prompts
from geminate.tools.bench.shapes import SHAPES
from geminate.tools.bench.step import StepBench
from geminate.tools.demo.prepare import Choice, choose
from geminate.tools.demo.race import CLEAR, PUBLISHED, ROWS, Lane, Passes, Race, measure_passes

LOADING = loading("weights", "threads", weights="int4")
REAL = "Real: the size of the weights, every pass, every draft step, the choice of draft lengths - so the speed."
NOT_REAL = (
    "Not real: the text (the weights are random) and which drafts are accepted: a seeded coin with the rates published "
    "for Gemma 4, {rates}."
)
EVERY_S = 0.1  # between two pictures


@options(LOADING)
@user_errors()
def demo(
    shape: Annotated[str, typer.Option("--shape", help=f"{', '.join(SHAPES)}, or a model directory.")] = "gemma-4-E2B",
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.5, max=600, help="Decoding time of each of the two lanes.")
    ] = 10.0,
    json_out: JsonOpt = False,
    **given: Any,
) -> None:
    """Plain and speculative decoding side by side at a real model's size, with random weights: nothing to download."""
    loaded = LOADING.take(given)
    weights = "int4" if loaded.weights == "auto" else loaded.weights
    choice = choose(shape, weights)
    _introduce(choice, weights)
    with Bars(counted=False) as bars:
        bars.part("making random weights", 0, None)
        bench = StepBench(shape, weights, threads=loaded.threads, layers=choice.layers)
        bars.part("making random weights", 1, 1)
        passes = measure_passes(bench, lambda done, total: bars.part("measuring passes", done, total))
        bars.part("measuring draft lengths", 0, None)
        engine = engine_of_shape(bench)
        bars.part("measuring draft lengths", 1, 1)
        prompt = random_prompts(bench.config.vocab_size, 1)[0].token_ids
        race = Race(engine, prompt, survival=list(PUBLISHED), seconds=seconds)
    _print_passes(passes)
    try:
        _show(race)
    except KeyboardInterrupt:
        err.print("stopped: the figures so far")
    _print_result(race)
    if json_out:
        write_json(_result(choice, weights, bench, passes, race))


def _introduce(choice: Choice, weights: str) -> None:
    free = "" if choice.free is None else f" of {choice.free / 1e9:.1f} GB that are free"
    out.print(f"{choice.title} in {weights}, random weights: takes {choice.needed / 1e9:.1f} GB{free}.")
    out.print(REAL, style="dim")
    out.print(NOT_REAL.format(rates=", ".join(f"{rate:.0%}" for rate in PUBLISHED)), style="dim")


def _print_passes(p: Passes) -> None:
    out.print(
        f"One pass: {p.one * 1e3:.1f} ms for one token, {p.five * 1e3:.1f} ms to verify {ROWS} ({p.ratio:.2f} times). "
        f"This machine's limits are {p.one_limit * 1e3:.1f} and {p.five_limit * 1e3:.1f} ms, "
        f"by {p.bandwidth / 1e9:.0f} GB/s and {p.peak / 1e9:.0f} G int8 multiply-accumulates/s."
    )


def _show(race: Race) -> None:
    """Run the race, with a picture that moves where the output is a terminal."""
    if not out.is_terminal:
        for _ in race.run():
            pass
        return
    with Live(_picture(race), console=out, refresh_per_second=1 / EVERY_S, auto_refresh=False) as live:
        shown = time.monotonic()
        for _ in race.run():
            if time.monotonic() - shown >= EVERY_S:
                shown = time.monotonic()
                live.update(_picture(race), refresh=True)
        live.update(_picture(race), refresh=True)


def _picture(race: Race) -> Stack:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("", "tokens", "seconds", "tokens/s"):
        table.add_column(title, justify="right" if title else "left")
    for lane in race.lanes:
        table.add_row(lane.name, f"{lane.tokens}", f"{lane.seconds:.1f}", f"{lane.rate:.1f}")
    parts: list[Any] = [table]
    width, most = max(10, out.width - 14), max(lane.tokens for lane in race.lanes) or 1
    for lane in race.lanes:
        parts.append(_tokens(lane, width, most))
    return Stack(*parts)


def _tokens(lane: Lane, width: int, most: int) -> Text:
    """A bar as long as the lane's share of ``most`` tokens; accepted draft tokens have another colour."""
    length = round(width * lane.tokens / most)
    drafted = sum(accepted for _, accepted in lane.rounds)
    by_drafter = round(length * drafted / lane.tokens) if lane.tokens else 0
    full, half = ("█", "▒") if out.encoding.lower().startswith("utf") else ("#", "=")
    text = Text(f"{lane.name:<12} ")
    text.append(full * (length - by_drafter), style="cyan")
    text.append(half * by_drafter, style="green")
    return text


def _print_result(race: Race) -> None:
    plain, fast = race.lanes
    middle, least, most = race.ratio()
    passes = len(fast.rounds)
    if least > CLEAR:
        verdict = f"Speculation is {middle:.2f} times as fast here ({least:.2f} to {most:.2f} over the run)"
    elif most < 1 / CLEAR:
        verdict = f"Speculation is slower here, {middle:.2f} times ({least:.2f} to {most:.2f} over the run)"
    else:
        verdict = f"No clear difference: {middle:.2f} times ({least:.2f} to {most:.2f} over the run)"
    out.print(
        f"{verdict}: {fast.rate:.1f} tokens a second instead of {plain.rate:.1f}. "
        f"{fast.tokens} tokens took {passes} passes; with a real model each of them is the one that plain decoding "
        "gives."
    )


def _result(choice: Choice, weights: str, bench: StepBench, p: Passes, race: Race) -> dict[str, Any]:
    fast = race.lanes[1]
    middle, least, most = race.ratio()
    return {
        "benchmark": "demo", "version": __version__, "machine": machine.describe(), "isa": bench.backend.isa,
        "threads": bench.backend.threads, "shape": choice.shape, "layers": choice.layers,
        "of_layers": choice.of_layers, "weights": weights, "synthetic_acceptance": list(PUBLISHED),
        "pass_ms": {"1": round(p.one * 1e3, 2), str(ROWS): round(p.five * 1e3, 2)},
        "limit_ms": {"1": round(p.one_limit * 1e3, 2), str(ROWS): round(p.five_limit * 1e3, 2)},
        "pass_ratio": round(p.ratio, 3),
        "tokens_per_s": {lane.name: round(lane.rate, 2) for lane in race.lanes},
        "ratio": round(middle, 3), "ratio_spread": [round(least, 3), round(most, 3)],
        "tokens_per_pass": round(fast.tokens / max(1, len(fast.rounds)), 3),
    }  # fmt: skip
