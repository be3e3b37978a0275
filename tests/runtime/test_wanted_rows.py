"""Rows that nobody wants end behind the last keys and values: wanted rows have the bits of a pass over all layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geminate import LLM
from geminate.backends.base import Backend, Program
from geminate.backends.cpu.program import NativeBackend, supported_isas
from geminate.backends.reference.program import ReferenceBackend, ReferenceProgram
from geminate.backends.tiles import LAYOUTS
from geminate.kv.store import KVStore
from geminate.plan import nodes as p
from geminate.plan.batch import Batch, Rows
from geminate.runtime.target import TargetModel
from support.fabricate import SIZES, VOCAB
from support.fabricate_gemma3 import SIZES as SIZES_3
from support.fabricate_gemma3 import make_target as make_target_3
from support.packed import pack_matrix

ROWS = 48


@pytest.fixture(scope="module")
def every_model(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("wanted3")
    return models | {size: make_target_3(size, root / size) for size in SIZES_3}


def batches(target: TargetModel, caches: list[KVStore]) -> Iterator[Batch]:
    """Prompts in chunks past the window of 24, a sequence that verifies drafts, and rows wanted here and there."""
    ids = np.random.default_rng(7).integers(3, VOCAB, 400).astype(np.int32)

    def rows(cache: int, count: int, wanted: int) -> Rows:
        return Rows(cache=caches[cache], ids=ids[caches[cache].length + 100 * cache :][:count], wanted=wanted)

    yield Batch.of([rows(0, 31, 0)])
    yield Batch.of([rows(0, 9, 1), rows(1, 17, 0)])
    yield Batch.of([rows(0, 5, 5), rows(1, 30, 0), rows(2, 4, 0)])
    yield Batch.of([rows(2, 20, 12), rows(0, 1, 1), rows(1, 11, 1)])
    scattered = Batch.of([rows(1, 21, 0), rows(2, 13, 0)])
    yield replace(scattered, wanted=np.array([0, 3, 4, 5, 19, 21, 22, 33], dtype=np.int32))
    yield Batch.of([rows(0, 6, 6), rows(1, 6, 6), rows(2, 6, 6)])


def outputs(target: TargetModel, program: Program) -> list[np.ndarray]:
    """Hidden states and logits of every batch, then all keys and values."""
    caches = [target.new_cache() for _ in range(3)]
    out: list[np.ndarray] = []
    for batch in batches(target, caches):
        for cache, count in zip(batch.caches, batch.counts, strict=True):
            cache.reserve(count)
        out += program.run(batch)
        assert len(out[-1]) == len(out[-2]) == len(batch.wanted)
        for cache, count in zip(batch.caches, batch.counts, strict=True):
            cache.advance(count)
    for cache in caches:
        for slot in range(len(target.slots)):
            out += cache.rows(slot, cache.length - 24, cache.length)
    return out


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("size", [*SIZES, *SIZES_3])
def test_short_and_long_way_agree(size: str, weights: str, every_model: dict[str, Path]) -> None:
    target = LLM(every_model[size], drafter=None, weights=weights).pair.target  # type: ignore[arg-type]
    whole = target.plan.with_every_row()
    wanted: list[np.ndarray] | None = None
    for isa in supported_isas():
        for threads in (1, 3):
            backend: Backend = NativeBackend(threads, isa)
            long = outputs(target, backend.compile(whole, max_rows=ROWS))
            wanted = wanted or long
            for program in (backend.compile(target.plan, max_rows=ROWS), backend.compile(whole, max_rows=ROWS)):
                for one, other in zip(outputs(target, program), wanted, strict=True):
                    assert np.array_equal(one, other)
    if weights == "int8":
        reference = ReferenceBackend()
        long = outputs(target, reference.compile(whole, max_rows=ROWS))
        for one, other in zip(outputs(target, reference.compile(target.plan, max_rows=ROWS)), long, strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("size", [*SIZES, *SIZES_3])
def test_rows_end_behind_the_last_keys_and_values(
    size: str, every_model: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each operation ran on: all rows up to the last KvStore, the wanted one from there on."""
    target = LLM(every_model[size], drafter=None, weights="int8").pair.target
    ran: list[p.Node] = []
    real = ReferenceProgram._apply

    def counted(self: ReferenceProgram, node: p.Node, *rest: object) -> None:
        ran.append(node)
        real(self, node, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ReferenceProgram, "_apply", counted)
    cache = target.new_cache()
    cache.reserve(5)
    program = ReferenceBackend().compile(target.plan, max_rows=ROWS)
    program.run(Batch.of([Rows(cache=cache, ids=[3, 4, 5, 6, 7], wanted=1)]))
    nodes = [node for node in target.plan.nodes if not isinstance(node, p.GatherRows | p.Tap)]
    last = max(i for i, node in enumerate(nodes) if isinstance(node, p.KvStore))
    for i, node in enumerate(nodes):
        assert sum(one is node for one in ran) == (5 if i <= last else 1), node
    layers = target.config.layers
    assert sum(isinstance(node, p.Attention) for node in nodes[:last]) == len(target.slots) - 1 < len(layers)


def test_rows_of_a_packed_matrix_are_a_view() -> None:
    """The columns of later layers' inputs are no second copy of the weights; rows inside a tile are one, and equal."""
    matrix = pack_matrix(np.random.default_rng(1).standard_normal((90, 40)).astype(np.float32), "int8")
    layout = LAYOUTS["int8"]
    for rows, shared in ((range(90), True), (range(32, 70), True), (range(21, 58), False)):
        part = layout.part(matrix, rows)
        assert part.n == len(rows) and np.array_equal(part.dequantized(), matrix.dequantized()[rows.start : rows.stop])
        assert all(np.shares_memory(part.planes[name], matrix.planes[name]) == shared for name in matrix.planes)


def test_taps_show_every_row(models: dict[str, Path]) -> None:
    target = LLM(models["E2B"], drafter=None).pair.target
    ids = list(range(3, 23))
    all_taps: dict[str, np.ndarray] = {}
    taps: dict[str, np.ndarray] = {}
    hidden, logits = target.extend([Rows(cache=target.new_cache(), ids=ids, wanted=20)], all_taps)
    last = target.extend([Rows(cache=target.new_cache(), ids=ids, wanted=1)], taps)
    assert np.array_equal(last[0], hidden[-1:]) and np.array_equal(last[1], logits[-1:])
    assert taps.keys() == all_taps.keys() and len(taps["layers.9"]) == 20
    assert all(np.array_equal(taps[name], all_taps[name]) for name in taps)
    batch = Batch.of([Rows(cache=target.new_cache(), ids=ids, wanted=1)])
    for backend in (target.backend, ReferenceBackend()):
        with pytest.raises(ValueError, match="of 20 rows only 1 are wanted"):
            backend.compile(target.plan, max_rows=ROWS).run(batch, taps={})
