"""``geminate audit replay``."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from geminate.audit.fingerprints import fingerprints
from geminate.audit.lines import Line
from geminate.audit.verify import Report, check_hash, read_log
from geminate.cli.audit import SHOWN, BeginOpt, LogArg, followed
from geminate.cli.bars import Bars
from geminate.cli.console import fail, plural, printable, read_text, remark, say, user_errors, write, write_json
from geminate.cli.flags import JsonOpt, ModelArg, loading, options, speculation_of
from geminate.cli.model import load
from geminate.errors import GeminateError
from geminate.kv.store import check_kv
from geminate.llm import LLM
from geminate.loading.options import LoadOptions
from geminate.tools.replay import Known, Replayer, Tally
from geminate.weights.presets import check_preset

LOADING = loading("adapter", "drafter", "threads")
AS_LOGGED = "as in the log"
SpeculationAsLogged = Annotated[
    str | None,
    typer.Option(
        "--speculation",
        "-k",
        help="auto, off, ngram or a draft length 0..16; never changes the output.",
        show_default=AS_LOGGED,
    ),
]


@options(LOADING)
@user_errors()
def replay_command(
    file: LogArg,
    model: ModelArg = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Weight format to load.", show_default=AS_LOGGED)
    ] = None,
    kv: Annotated[str | None, typer.Option("--kv", help="KV format.", show_default=AS_LOGGED)] = None,
    speculation: SpeculationAsLogged = None,
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="Replay so many lines, chosen at random.", show_default="all")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of that choice.", show_default="drawn and shown")] = None,
    first: Annotated[int, typer.Option("--from", min=0, help="Begin with the line of this number.")] = 0,
    requests: Annotated[
        Path | None,
        typer.Option(
            "--requests",
            help="JSON lines with prompts that the log leaves out: prompt_ids, prompt or messages; grammar.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replay lines of other weights, programs and formats too.")
    ] = False,
    begin: BeginOpt = None,
    json_out: JsonOpt = False,
    **given: Any,
) -> None:
    """Compute an audit log's answers again and name the line and token that differ (exit code 1).

    The answers are the same with any draft length, drafter, thread count and processor.
    """
    if speculation is not None:
        speculation_of(speculation)
    if seed is not None and sample is None:
        fail("--seed chooses the lines of --sample: name both")
    loaded = LOADING.take(given)
    text = None if requests is None else read_text(requests)
    found = _Found(first)
    start = None if begin is None else check_hash(begin, "--begin")
    report = followed(file, begin=start, on_line=found.take)
    if not report.intact:
        remark(f"the chain is NOT intact ({report.found:,} found): geminate audit verify names what")
    if not found.seqs:
        fail(f"{file} has no line of a request" + (f" from line {first} on" if first else ""))
    chosen = _sampled(found.seqs, sample, seed)
    wanted = LoadOptions(**vars(loaded) | {"model": model})
    named = not (model is None and weights is None and kv is None) or force
    groups = _groups(found, chosen, lambda starts: _as_logged(starts, wanted, weights, kv), named)
    work = _Replays(file, found.starts, set(chosen))
    try:
        with Bars() as bars:
            work.run(groups, bars, text, requests, speculation=speculation, force=force)
    except KeyboardInterrupt:
        _show(work.tally)
        say(f"interrupted; go on with --from {min(work.left, default=first)}")
        raise typer.Exit(130) from None
    _end(work.tally, report, file, json_out)


class _Replays:
    """The replays of a log's lines, model by model.

    Attributes:
        left: numbers of the lines that are still to replay.
    """

    def __init__(self, file: Path, starts: list[Line], left: set[int]) -> None:
        self.file, self.starts, self.left = file, starts, left
        self.tally = Tally()
        self._total = len(left)

    def run(
        self, groups: dict[LoadOptions, set[int]], bars: Bars, text: str | None, requests: Path | None, **more: Any
    ) -> None:
        """Load each model and replay its lines; ``more``: options of `Replayer`."""
        for wanted, seqs in groups.items():
            try:
                llm = load(wanted)
            except GeminateError as error:
                if len(groups) == 1:
                    raise
                self.tally.skipped[f"their model cannot be loaded ({error})"] += len(seqs)
                self.left -= seqs
                continue
            known = None if text is None else _known(llm, text, requests)
            replayer = Replayer(llm, fingerprints(llm), known=known, tally=self.tally, **more)
            for line in self.starts:
                replayer.learn(line)
            for line in _lines(self.file, seqs):
                bars.part("lines", self._total - len(self.left), self._total)
                replayer.replay(line)
                self.left.discard(line.seq)
            llm.close()


class _Found:
    """What a first reading notes: the requests from ``first`` on, and the lines that begin a run.

    Attributes:
        seqs: numbers of the requests. origins: of what each was computed with, an index into ``known``.
        known: fingerprints of weights and program.
    """

    def __init__(self, first: int) -> None:
        self.seqs: list[int] = []
        self.origins: list[int] = []
        self.known: dict[tuple[str, str], int] = {}
        self.starts: list[Line] = []
        self._first = first

    def take(self, line: Line) -> None:
        """A line."""
        if line.type == "request" and line.seq >= self._first:
            self.seqs.append(line.seq)
            self.origins.append(self.known.setdefault(_origin(line), len(self.known)))
        elif line.type == "start":
            self.starts.append(line)


def _origin(line: Line) -> tuple[str, str]:
    return str(line.record.get("weights")), str(line.record.get("program"))


def _groups(
    found: _Found, chosen: set[int], options_of: Callable[[list[Line]], LoadOptions], named: bool
) -> dict[LoadOptions, set[int]]:
    """Numbers of the chosen lines by what they are to be replayed with.

    Args:
        options_of: what the last of some starts was loaded with. named: whether the user has said with what.
    """
    last = options_of(found.starts)
    by_origin = {_origin(line): line for line in found.starts}
    made: dict[LoadOptions, set[int]] = {}
    options = [last if named or origin not in by_origin else options_of([by_origin[origin]]) for origin in found.known]
    for seq, index in zip(found.seqs, found.origins, strict=True):
        if seq in chosen:
            made.setdefault(options[index], set()).add(seq)
    return made


def _sampled(seqs: list[int], sample: int | None, seed: int | None) -> set[int]:
    if sample is None or sample >= len(seqs):
        return set(seqs)
    if seed is None:
        seed = secrets.randbits(32)
        say(f"lines chosen with --seed {seed}")
    return set(random.Random(seed).sample(seqs, sample))


def _as_logged(starts: list[Line], wanted: LoadOptions, weights: str | None, kv: str | None) -> LoadOptions:
    """Options with the model and the formats that the log's last run of the program had, where none are named."""
    last = starts[-1].record if starts else {}
    facts = last.get("facts") if isinstance(last.get("facts"), dict) else {}
    model, preset, format = last.get("model"), last.get("preset"), facts.get("kv", "f16") if facts else "f16"
    if weights is None:
        weights = preset if isinstance(preset, str) else "auto"
    values = {
        "model": wanted.model or (model if isinstance(model, str) else None),
        "weights": check_preset(weights),
        "kv": check_kv(kv or str(format)),
    }
    return LoadOptions(**vars(wanted) | values)


def _known(llm: LLM, text: str, path: Path | None) -> Known:
    known = Known()
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not known.add(llm, line):
            fail(f"{path}, line {number}: expected JSON with prompt_ids, prompt, messages or grammar")
    return known


def _lines(file: Path, chosen: set[int]) -> Iterator[Line]:
    """The chosen lines, each once: a duplicated one has the same number."""
    left = set(chosen)
    for raw in read_log(file):
        if raw.line is not None and raw.line.type == "request" and raw.line.seq in left:
            left.discard(raw.line.seq)
            yield raw.line


def _show(tally: Tally) -> None:
    for difference in tally.differences[:SHOWN]:
        remark(printable(f"DIFFERS: {difference}"))
    if tally.differ > SHOWN:
        remark(f"and {plural(tally.differ - SHOWN, 'line')} more that differ; --json lists up to 1,000")
    for reason, count in tally.skipped.most_common():
        say(f"not replayed, {plural(count, 'line')}: {printable(reason)}")
    verdict = f"{tally.differ:,} DIFFER, " if tally.differ else ""
    write(f"{verdict}the same: {plural(tally.same, 'line')}, {plural(tally.tokens, 'token')}\n")


def _end(tally: Tally, report: Report, file: Path, json_out: bool) -> None:
    if not (tally.same or tally.differ):
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count in tally.skipped.most_common(5))
        fail(f"no line of {file} could be replayed: {reasons}")
    if json_out:
        write_json({**tally.as_dict(), "intact": report.intact, "chain_problems": report.found})
    else:
        _show(tally)
    if tally.differ or not report.intact:
        raise typer.Exit(1)
