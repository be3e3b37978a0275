"""The demo at real size: the race of two lanes, what fits into memory, and the command."""

from __future__ import annotations

import io
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from geminate import LLM
from geminate.cli.demo import _picture, _raced
from geminate.errors import ParameterError
from geminate.tools.bench.random_weights import ALIGN, RandomStore, streamed_bytes
from geminate.tools.bench.shapes import block_of, load_shape
from geminate.tools.demo.prepare import SHARE, choose, needed_bytes
from geminate.tools.demo.race import PARTS, Lane, Race
from support.cli import geminate, refused


def race(survival: list[float], seconds: float = 40.0) -> Race:
    """A race of the embedded pair in which every round takes a second."""
    ticks = itertools.count()
    made = Race(
        LLM(threads=1).engine,
        [5, 6, 7],
        survival=survival,
        seconds=seconds,
        speculation=2,
        clock=lambda: float(next(ticks)),
    )
    for _ in made.run():
        pass
    return made


def test_ratio_is_tokens_a_round_where_rounds_cost_the_same() -> None:
    sure = race([1.0, 1.0])
    assert sure.ratio() == (3.0, 3.0, 3.0) and [lane.seconds for lane in sure.lanes] == [40.0, 40.0]
    assert [lane.tokens for lane in sure.lanes] == [40, 120] and sure.lanes[1].rounds[0] == (3, 2)
    assert race([0.0]).ratio() == (1.0, 1.0, 1.0), "no draft accepted, no gain"
    middle, least, most = race([0.5, 0.25]).ratio()
    assert 1.0 < least <= middle <= most < 3.0


def test_lanes_advance_together() -> None:
    rng = random.Random(1)
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += rng.choice((0.5, 1.0, 30.0))  # a long round swallows whole parts
        return now

    made = Race(LLM(threads=1).engine, [5, 6, 7], survival=[0.5], seconds=200.0, clock=clock)
    for _ in made.run():
        behind, ahead = sorted(lane.seconds for lane in made.lanes)
        assert ahead - behind <= 30.0, "the lane that is behind takes the next round"
    for lane in made.lanes:
        assert lane.seconds >= 200.0 and PARTS in lane.marks and sorted(lane.marks) == list(lane.marks)
        assert lane.rate == pytest.approx(lane.tokens / lane.seconds)


def test_a_full_context_ends_the_race() -> None:
    llm = LLM(threads=1)
    made = Race(llm.engine, [5] * (llm.config.max_position_embeddings - 20), survival=[0.5], seconds=600)
    assert sum(1 for _ in made.run()) < 60
    assert made.ratio() == (made.lanes[1].rate / made.lanes[0].rate,) * 3, "there is no whole part, but all of it"
    made.lanes[0].tokens = 0
    with pytest.raises(ParameterError, match="more seconds"):
        made.ratio()
    with pytest.raises(ParameterError, match="needs some seconds"):
        race([0.5], seconds=0)


@pytest.mark.parametrize("shape", ["gemma-4-E2B", "gemma-4-26B-A4B"])
def test_as_many_layers_as_fit(shape: str) -> None:
    whole = choose(shape, "int4", free=1 << 40)
    assert whole.layers == whole.of_layers and whole.title == shape
    seen = set()
    smallest = needed_bytes(shape, block_of(load_shape(shape, None)[0]), "int4")
    for share in (0.99, 0.5, 0.0):  # of the way from the smallest stack of layers to the whole
        needed = smallest + share * (whole.needed - smallest)
        fewer = choose(shape, "int4", free=int(needed / SHARE) + 1)
        assert fewer.needed <= needed + 1 and f"{fewer.layers} of {whole.of_layers} layers" in fewer.title
        seen.add(fewer.layers)
    assert len(seen) > 1
    with pytest.raises(ParameterError, match=r"GB that are free; close something"):
        choose(shape, "int4", free=1 << 28)


def test_command(models: dict[str, Path]) -> None:
    shape = str(models["E2B"])
    done = geminate("demo", "--shape", shape, "--seconds", "0.5", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ratio_spread"][0] <= result["ratio"] <= result["ratio_spread"][1]
    assert set(result["tokens_per_s"]) == {"plain", "speculating"} and result["pass_ms"]["1"] > 0
    for said in ("Not real: the text", "Real: ", "limits are", "GB that are free", "tokens a second instead of"):
        assert said in " ".join(done.stdout.split()), said


def test_refusals() -> None:
    refused("demo", "--shape", "gemma-9", says="none of gemma-4-E2B")
    refused("demo", "--weights", "int3", says="weights must be one of")
    done = geminate("demo", "--shape", "gemma-4-31B", "--threads", "0")
    assert done.returncode == 2 and "threads must be 1 to 256" in done.stderr, done.stderr


def test_random_weights_take_no_more_than_they_say_and_report_it() -> None:
    config, _, _ = load_shape("gemma-4-E2B", 5)
    seen: list[tuple[int, int]] = []
    store = RandomStore(config, "int4", lambda done, total: seen.append((done, total)))
    spec = next(s for s in store.specs.values() if s.role == "matrix")
    made = [store.matrix(s.name) for s in store.specs.values() if s.role == "matrix"]
    owners = {id(plane.base if plane.base is not None else plane): plane for m in made for plane in m.planes.values()}
    held = sum((plane.base if plane.base is not None else plane).nbytes for plane in owners.values())
    assert held - len(made) * ALIGN == seen[-1][0] <= seen[-1][1] == streamed_bytes(config, "int4")
    assert len(seen) == len(made) and store.matrix(spec.name) is made[0]
    assert len({m.planes["codes"][:64].tobytes() for m in made}) == len(made), "no two begin alike"


def test_the_picture_has_a_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=60)
    console.print(_picture(race([0.5], seconds=5.0)))
    assert "tokens of the target's own choice" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("rounds", [0, 100])
def test_an_interrupted_race_says_so(rounds: int) -> None:
    made = race([0.5], seconds=1.0)
    real, shown = made.run, []
    made.seconds, made.lanes = 40.0, (Lane("plain"), Lane("speculating"))

    def run() -> Iterator[Lane]:
        yield from itertools.islice(real(), rounds and 60)
        raise KeyboardInterrupt

    class Shown:
        def lanes(self, race: Race) -> None: ...

        def end(self) -> None:
            shown.append("end")

    made.run = run  # type: ignore[method-assign]
    assert _raced(made, Shown()) is False and shown == ["end"] and made.begun == bool(rounds)  # type: ignore[arg-type]
