"""``geminate demo``."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Annotated, Any, Protocol

import typer
from rich.console import Group as Stack
from rich.live import Live
from rich.table import Table
from rich.text import Text

from geminate import __version__, machine
from geminate.cli.bars import Bars
from geminate.cli.console import out, say, tell, user_errors, write_json
from geminate.cli.flags import JsonOpt, loading, options
from geminate.cli.terminal import unechoed
from geminate.tools.bench.decode import engine_of_shape, random_prompts
from geminate.tools.bench.shapes import SHAPES
from geminate.tools.bench.step import StepBench
from geminate.tools.demo.prepare import Choice, choose
from geminate.tools.demo.race import CLEAR, PUBLISHED, ROWS, Lane, Passes, Race, measure_passes

LOADING = loading("weights", "kv", "threads", weights="int4")
REAL = "Real: the size of the weights, every pass, every draft step, the choice of draft lengths - so the speed."
NOT_REAL = (
    "Not real: the text (the weights are random) and which drafts are accepted: a seeded coin with the rates published "
    f"for Gemma 4, {', '.join(f'{rate:.0%}' for rate in PUBLISHED)}."
)
MAKING = "making random weights (percent)"
_SHADES = {True: ("█", "▒"), False: ("#", "=")}  # of a bar, with UTF-8 or without
EVERY_S = 0.1  # between two pictures


class Show(Protocol):
    """How the demo is shown; called in this order, ``work`` and ``lanes`` many times."""

    def start(self, choice: Choice, weights: str) -> None: ...
    def work(self, what: str, done: int, total: int | None) -> None: ...
    def passes(self, passes: Passes) -> None: ...
    def lanes(self, race: Race) -> None: ...
    def end(self) -> None: ...
    def result(self, result: dict[str, Any]) -> None: ...


@options(LOADING)
@user_errors()
def demo(
    shape: Annotated[str, typer.Option("--shape", help=f"{', '.join(SHAPES)}, or a model directory.")] = "gemma-4-E2B",
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.5, max=600, help="Decoding time of each of the two lanes.")
    ] = 10.0,
    json_out: JsonOpt = False,
    events: Annotated[
        bool, typer.Option("--events", help="Print every step as a JSON line, for programs, instead of text.")
    ] = False,
    **given: Any,
) -> None:
    """Plain and speculative decoding side by side at a real model's size, with random weights: nothing to download."""
    loaded = LOADING.take(given)
    weights = "int4" if loaded.weights == "auto" else loaded.weights
    choice = choose(shape, weights)
    with Bars(shown=not events) as bars:
        show: Show = _Events() if events else _Terminal(bars, seconds)
        show.start(choice, weights)
        making = _percent(show, MAKING)
        bench = StepBench(shape, weights, kv=loaded.kv, threads=loaded.threads, layers=choice.layers, on_weights=making)
        passes = measure_passes(bench, lambda done, total: show.work("measuring passes", done, total))
        measured = itertools.count()
        engine = engine_of_shape(bench, lambda: show.work("measuring draft lengths", next(measured), None))
        prompt = random_prompts(bench.config.vocab_size, 1)[0].token_ids
        race = Race(engine, prompt, survival=list(PUBLISHED), seconds=seconds)
    show.passes(passes)
    if not _raced(race, show):
        say("stopped: the figures so far" if race.begun else "stopped before there were figures")
        if not race.begun:
            raise typer.Exit(130)
    result = _result(choice, weights, bench, passes, race)
    show.result(result)
    if json_out and not events:
        write_json(result)


def _raced(race: Race, show: Show) -> bool:
    """Run the race; False if Ctrl-C ended it."""
    with unechoed():
        try:
            shown = time.monotonic()
            for _ in race.run():
                if time.monotonic() - shown >= EVERY_S:
                    shown = time.monotonic()
                    show.lanes(race)
            show.lanes(race)
            return True
        except KeyboardInterrupt:
            return False
        finally:
            show.end()


def _percent(show: Show, what: str) -> Callable[[int, int], None]:
    """Progress in whole percent, each shown once."""
    last = -1

    def report(done: int, total: int) -> None:
        nonlocal last
        if (now := 100 * done // max(1, total)) > last:
            last = now
            show.work(what, now, 100)

    report(0, 1)
    return report


class _Events:
    """JSON lines."""

    def start(self, choice: Choice, weights: str) -> None:
        body = {"title": choice.title, "weights": weights, "needed_bytes": choice.needed, "free_bytes": choice.free}
        write_json({"type": "demo.start", **body, "remarks": [REAL, NOT_REAL]})

    def work(self, what: str, done: int, total: int | None) -> None:
        write_json({"type": "demo.work", "what": what, "done": done, "total": total})

    def passes(self, passes: Passes) -> None:
        write_json({"type": "demo.passes", **vars(passes), "text": _passes_in_words(passes)})

    def lanes(self, race: Race) -> None:
        lanes = [
            {
                "name": lane.name,
                "tokens": lane.tokens,
                "accepted": _accepted(lane),
                "seconds": round(lane.seconds, 3),
                "tokens_per_s": round(lane.rate, 2),
            }
            for lane in race.lanes
        ]
        write_json({"type": "demo.lanes", "lanes": lanes, "of_seconds": race.seconds})

    def end(self) -> None:
        """There is no picture to leave."""

    def result(self, result: dict[str, Any]) -> None:
        write_json({"type": "demo.result", **result})


class _Terminal:
    """Text, with a picture that moves where the output is a terminal."""

    def __init__(self, bars: Bars, seconds: float) -> None:
        self.bars, self.seconds = bars, seconds
        self._live: Live | None = None

    def start(self, choice: Choice, weights: str) -> None:
        free = "" if choice.free is None else f" of {choice.free / 1e9:.1f} GB that are free"
        tell(f"{choice.title} in {weights}, random weights: takes {choice.needed / 1e9:.1f} GB{free}.")
        tell(REAL, style="dim")
        tell(NOT_REAL, style="dim")
        tell(
            f"First the weights are made and passes are measured, then both lanes decode for {self.seconds:g} s each. "
            "On a busy machine the first part takes longest.",
            style="dim",
        )

    def work(self, what: str, done: int, total: int | None) -> None:
        self.bars.part(what, done, total)

    def passes(self, passes: Passes) -> None:
        tell(_passes_in_words(passes))

    def lanes(self, race: Race) -> None:
        if not out.is_terminal:
            return
        if self._live is None:
            self._live = Live(console=out, auto_refresh=False)
            self._live.start()
        self._live.update(_picture(race), refresh=True)

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()

    def result(self, result: dict[str, Any]) -> None:
        tell(result["text"])


def _passes_in_words(p: Passes) -> str:
    passes = (
        f"One pass: {p.one * 1e3:.1f} ms for one token, {p.five * 1e3:.1f} ms to verify {ROWS} ({p.ratio:.2f} times). "
    )
    if p.one < p.one_limit or p.five < p.five_limit:
        return f"{passes}Something else uses this machine, so its limits could not be measured."
    return (
        f"{passes}This machine's limits are {p.one_limit * 1e3:.1f} and {p.five_limit * 1e3:.1f} ms, "
        f"by {p.bandwidth / 1e9:.0f} GB/s and {p.peak / 1e9:.0f} G int8 multiply-accumulates/s."
    )


def _picture(race: Race) -> Stack:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("", "tokens", "seconds", "tokens/s"):
        table.add_column(title, justify="right" if title else "left")
    for lane in race.lanes:
        table.add_row(lane.name, f"{lane.tokens}", f"{lane.seconds:.1f}", f"{lane.rate:.1f}")
    width, most = max(10, out.width - 14), max(lane.tokens for lane in race.lanes) or 1
    legend = Text("each bar: ", style="dim").append(_SHADES[_utf()][0], style="not dim cyan")
    legend.append(" tokens of the target's own choice, ").append(_SHADES[_utf()][1], style="not dim green")
    legend.append(" draft tokens it accepted")
    return Stack(table, *(_bar(lane, width, most) for lane in race.lanes), legend)


def _utf() -> bool:
    return out.encoding.lower().startswith("utf")


def _accepted(lane: Lane) -> int:
    return sum(accepted for _, accepted in lane.rounds)


def _bar(lane: Lane, width: int, most: int) -> Text:
    """A bar as long as the lane's share of ``most`` tokens; accepted draft tokens have another colour."""
    length = round(width * lane.tokens / most)
    drafted = round(length * _accepted(lane) / lane.tokens) if lane.tokens else 0
    full, half = _SHADES[_utf()]
    text = Text(f"{lane.name:<12} ")
    text.append(full * (length - drafted), style="cyan")
    text.append(half * drafted, style="green")
    return text


def _result(choice: Choice, weights: str, bench: StepBench, p: Passes, race: Race) -> dict[str, Any]:
    plain, fast = race.lanes
    middle, least, most = race.ratio()
    spread = f"({least:.2f} to {most:.2f} over the run)"
    if least > CLEAR:
        verdict = f"Speculation is {middle:.2f} times as fast here {spread}"
    elif most < 1 / CLEAR:
        verdict = f"Speculation is slower here, {middle:.2f} times {spread}"
    else:
        verdict = f"No clear difference: {middle:.2f} times {spread}"
    text = (
        f"{verdict}: {fast.rate:.1f} tokens a second instead of {plain.rate:.1f}. {fast.tokens} tokens took "
        f"{len(fast.rounds)} passes; with a real model each of them is the one that plain decoding gives."
    )
    return {
        "benchmark": "demo", "version": __version__, "machine": machine.describe(), "isa": bench.backend.isa,
        "threads": bench.backend.threads, "shape": choice.shape, "layers": choice.layers,
        "of_layers": choice.of_layers, "weights": weights, "synthetic_acceptance": list(PUBLISHED),
        "pass_ms": {"1": round(p.one * 1e3, 2), str(ROWS): round(p.five * 1e3, 2)},
        "limit_ms": {"1": round(p.one_limit * 1e3, 2), str(ROWS): round(p.five_limit * 1e3, 2)},
        "pass_ratio": round(p.ratio, 3), "tokens_per_s": {lane.name: round(lane.rate, 2) for lane in race.lanes},
        "ratio": round(middle, 3), "ratio_spread": [round(least, 3), round(most, 3)],
        "tokens_per_pass": round(fast.tokens / max(1, len(fast.rounds)), 3), "text": text,
    }  # fmt: skip
