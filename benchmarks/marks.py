"""The key figures of every issue so far, each with its mark, in one run of a few minutes on an idle machine.

Usage: python benchmarks/marks.py [--json benchmarks/marks.json]

A mark that the committed benchmarks/marks.json has as met and that is missed now is *lost*: the exit code is 1. Marks
that were never met stay in the list, as missed. Ratios are taken within one run; the machine is shared, so a lost mark
of speed deserves a second run before it is believed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from geminate import __version__, machine

HERE = Path(__file__).parent
SHAPE = ("bench", "decode", "--shape", "gemma-4-E2B", "--weights", "int4", "--lengths", "4", "--max-tokens", "96",
         "--limit", "4", "--repeats", "2")  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """A figure, the bound it has to keep, and whether it does."""

    issue: int
    name: str
    value: float
    bound: str
    met: bool


def at_least(issue: int, name: str, value: float, mark: float) -> Mark:
    """Met if ``value`` >= ``mark``."""
    return Mark(issue, name, round(value, 3), f">= {mark:g}", value >= mark)


def at_most(issue: int, name: str, value: float, mark: float) -> Mark:
    """Met if ``value`` <= ``mark``."""
    return Mark(issue, name, round(value, 3), f"<= {mark:g}", value <= mark)


def last_json(command: list[str]) -> dict[str, Any]:
    """The last line of a command's standard output.

    Raises:
        RuntimeError: the command printed none; the message has the end of its errors.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise RuntimeError(f"{' '.join(command)} gave no JSON: {done.stderr.strip()[-500:]}") from None
    return found


def geminate(*arguments: str) -> dict[str, Any]:
    """``geminate ... --json`` as a user runs it."""
    return last_json([sys.executable, "-c", "from geminate.cli.app import app; app()", *arguments, "--json"])


def script(name: str, *arguments: str) -> dict[str, Any]:
    """A script beside this one."""
    return last_json([sys.executable, str(HERE / name), *arguments])


def exactness() -> Iterator[Mark]:
    """Issue 2: the same bits in every setting, and in every format."""
    for weights in ("int8", "int4", "bf16"):
        report = geminate("verify", "--weights", weights)
        yield at_least(2, f"verify, embedded pair {weights}, {report['runs']} runs identical", report["identical"], 1)


def passes() -> Iterator[Mark]:
    """Issues 2 and 3: passes of the E2B shape."""
    int8 = geminate("bench", "step", "--weights", "int8", "--rows", "1,5", "--repeats", "5")
    yield at_most(2, "E2B int8, T(1) in ms", int8["step_ms"]["1"], 120)
    int4 = geminate("bench", "step", "--weights", "int4", "--rows", "1,5,8", "--repeats", "7")
    for rows, mark in (("1", 0.75), ("5", 0.55), ("8", 0.6)):
        yield at_least(3, f"E2B int4, {rows} rows, share of the ceiling", int4["ceiling_fraction"][rows], mark)
    yield at_most(3, "E2B int4, draft step, share of T(1)", int4["draft_step_share"], 0.02)


def decoding() -> Iterator[Mark]:
    """Issues 2 and 3: speculation against plain decoding."""
    for survival, mark in (("0.84,0.60,0.39,0.27", 1.8), ("0.35,0.10", 1.1), ("0.05,0.01", 0.98)):
        found = geminate(*SHAPE, "--synthetic-acceptance", survival)
        yield at_least(3, f"E2B int4, auto / plain, survival {survival}", found["speedup_auto"]["mean"], mark)
    pair = geminate("bench", "decode", "--repeats", "3", "--lengths", "4")
    yield at_least(2, "embedded pair, tokens per round at k = 4", pair["acceptance_length"]["4"], 2.4)
    yield at_least(3, "embedded pair, auto / plain", pair["speedup_auto"]["mean"], 1.3)
    yield at_least(3, "embedded pair, auto / plain, worst category", pair["speedup_auto"]["worst"], 0.98)


def quality() -> Iterator[Mark]:
    """Issue 4: what the weight formats lose, on the prompts of bench80."""
    prompts = Path(__file__).parents[1] / "src" / "geminate" / "assets" / "prompts" / "bench80.jsonl"
    turns = [turn for line in prompts.read_text().splitlines() for turn in json.loads(line)["turns"]]
    with tempfile.TemporaryDirectory() as place:
        text = Path(place) / "text.txt"
        text.write_text("\n\n".join(turns))
        formats = geminate("eval", "--text", str(text))["formats"]
    yield at_least(4, "embedded pair, int8, top-1 agreement with bf16", formats["int8"]["top1"], 0.98)
    yield at_most(4, "embedded pair, KL of int4+ / KL of int4", formats["int4+"]["kl"] / formats["int4"]["kl"], 0.6)


def serving() -> Iterator[Mark]:
    """Issue 5: one client of the server against the engine alone."""
    found = script("serve/one_client.py", "--prompts", "8")
    for way in ("off", "auto"):
        yield at_least(5, f"embedded pair, server / engine, one client, {way}", found[way]["share"], 0.95)
    yield at_least(5, "embedded pair, server and engine give the same text", found["identical"], 1)


def house() -> Iterator[Mark]:
    """Issue 11: files that hand a request on; 11 and 20 before it, 10 and 19 after it.

    Issue 13 added text/reply.py, which reads every completion, loaded.py, which has an LLM's requests apart from its
    calls, and cli/flags.py, which makes each command's options; issue 14 added cli/prompt_bar.py.
    """
    yield at_most(11, "files on the way of a prompt", script("request_path.py", "cli")["files"], 14)
    yield at_most(11, "files on the way of a chat request", script("request_path.py", "http")["files"], 20)


def guard() -> Iterator[Mark]:
    """Issue 12: a stream beside four clients with dear grammars."""
    rows = script("serve/hostile.py", "--seconds", "4", "--repeats", "2", "--kinds", "800 anyOf", "900 rules")["rows"]
    for kind, row in rows.items():
        yield at_least(12, f"stream beside four clients, {kind}, share of its rate", row["share"], 0.7)
        yield at_most(12, f"stream beside four clients, {kind}, longest gap in ms", row["gap_ms"], 150)


def first_day() -> Iterator[Mark]:
    """Issue 13: 2,000 requests over all APIs at once, a third of them cut off."""
    found = script("serve/mixed_apis.py")
    yield at_least(13, "requests over all APIs, none lost or different", found["marks"]["nothing lost or different"], 1)
    memory = found["memory_mb"]
    yield at_most(13, "requests over all APIs, memory at the end / after half", memory["end"] / memory["half"], 1.05)


def long() -> Iterator[Mark]:
    """Issue 14: long prompts and contexts, drawing, and a busy machine."""
    step = ("bench", "step", "--weights", "int4", "--rows", "1,5", "--repeats", "5")
    short = geminate(*step)
    rate = short["prefill_tokens_per_s"] * 450 / short["int8_gmacs"]
    yield at_least(14, "E2B int4, prefill of 512 tokens, tokens/s at an int8 peak of 450 G", rate, 430)
    for kv, flat, draft in (("f16", 1.5, 0.05), ("int8", 1.25, 0.015)):
        far = geminate(*step, "--context", "8192", "--kv", kv)
        yield at_most(14, f"E2B int4, KV {kv}, T(5) / T(1) at 8k", far["step_ms"]["5"] / far["step_ms"]["1"], flat)
        yield at_most(14, f"E2B int4, KV {kv}, draft step at 8k, share of T(1)", far["draft_step_share"], draft)
    drawn = script("sampling.py", "--rows", "1")["ms_per_row"]["native, peaked, 1 rows"]
    for name, mark in (("top_k 64, top_p 0.95", 0.1), ("temperature 1", 0.6), ("logprobs, 5 tops", 0.3)):
        yield at_most(14, f"drawing from 262,144 logits, {name}, ms", drawn[name], mark)
    found = script("busy.py", "--only", "stories", "--answers", "8")
    for busy in (0, 5):
        row = found[f"stories_beside_{busy}"]
        yield at_least(14, f"stories beside {busy} busy processes, auto / off", row["auto_to_off"], 1.2)
        yield at_least(14, f"stories beside {busy} busy processes, auto / best length", row["auto_to_best"], 0.9)


PARTS: tuple[Callable[[], Iterator[Mark]], ...] = (
    exactness,
    passes,
    decoding,
    quality,
    serving,
    house,
    guard,
    first_day,
    long,
)


def main() -> int:
    """Measure, print, compare with the committed figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    kept = HERE / "marks.json"
    before = {m["name"]: m["met"] for m in json.loads(kept.read_text())["marks"]} if kept.exists() else {}
    marks: list[Mark] = []
    console, err = Console(highlight=False), Console(stderr=True, highlight=False)
    with err.status("measuring") as status:
        for part in PARTS:
            status.update(str(part.__doc__))
            marks += part()
    console.print(f"machine: {machine.describe()}", markup=False)
    table = Table("issue", "figure", "value", "mark", "", box=None)
    for m in marks:
        state = "met" if m.met else "LOST" if before.get(m.name) else "missed"
        table.add_row(str(m.issue), m.name, f"{m.value:g}", m.bound, state)
    console.print(table)
    lost = [m.name for m in marks if before.get(m.name) and not m.met]
    result = {"machine": machine.describe(), "version": __version__, "marks": [asdict(m) for m in marks], "lost": lost}
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
