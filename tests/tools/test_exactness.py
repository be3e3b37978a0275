"""Which runs ``geminate verify`` makes, and that it notices a difference."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from geminate import LLM, SamplingParams
from geminate.backends.kv_rings import KVRings
from geminate.engine.engine import Engine
from geminate.kv import prefix_store
from geminate.kv.store import KVFormat
from geminate.tools.exactness import BATCHES, CHUNKS, SPECULATION, TEMPERATURES, settings, verify


def test_default_runs_cover_all_pairs_in_at_most_36() -> None:
    runs = settings((1, 2), drafter=True, full=False)
    assert len(runs) <= 36 and len(set(runs)) == len(runs)
    assert {r.temperature for r in runs} == set(TEMPERATURES)
    values = [SPECULATION, (1, 2), CHUNKS, BATCHES, (True, False)]
    rows = [(r.speculation, r.threads, r.prefill_chunk, r.batch, r.temperature == 0) for r in runs]
    for i, j in itertools.combinations(range(5), 2):
        seen = {(row[i], row[j]) for row in rows}
        assert seen == set(itertools.product(values[i], values[j]))
    assert len(settings((1, 2), drafter=True, full=True)) == 11 * 2 * 2 * 3 * 3
    assert {r.speculation for r in settings((1, 2), drafter=False, full=False)} == {0, "ngram"}


def test_kv_formats_are_an_axis() -> None:
    runs = settings((1, 2), drafter=True, full=False, kvs=("f16", "int8"))
    assert len(runs) <= 40 and len(set(runs)) == len(runs)
    for kv in ("f16", "int8"):
        own = [r for r in runs if r.kv == kv]
        assert own[0].speculation == 0 and {r.temperature for r in own} == set(TEMPERATURES)
        assert {r.speculation for r in own} == set(SPECULATION) and {r.threads for r in own} == {1, 2}
        assert {r.prefill_chunk for r in own} == set(CHUNKS) and {r.batch for r in own} == set(BATCHES)
    assert len(settings((1, 2), drafter=True, full=True, kvs=("f16", "int8"))) == 2 * 11 * 2 * 2 * 3 * 3


def test_a_difference_is_found_and_named(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation control: drafts verified against each other's rows."""
    prompt = [list(range(3, 40))]
    params = SamplingParams(max_tokens=24, seed=1, ignore_eos=True)

    def make(threads: int, kv: KVFormat) -> LLM:
        return LLM(models["E4B"], threads=threads, kv=kv)

    same = verify(make, (1, 2), prompt, params, kvs=("f16", "int8"))
    assert same.identical and same.logits_hash == same.kv_hashes["f16"] != same.kv_hashes["int8"]
    real = Engine._commit

    def wrong(self, turn, hidden, logits, ahead):  # type: ignore[no-untyped-def]
        if len(logits) >= 3:
            logits, ahead = np.roll(logits, 1, axis=0), []  # nothing is drawn yet
        return real(self, turn, hidden, logits, ahead)

    monkeypatch.setattr(Engine, "_commit", wrong)
    report = verify(make, (1, 2), prompt, params)
    assert not report.identical and report.difference is not None
    assert report.difference.plain.speculation == 0 and report.difference.other.speculation != 0
    assert report.difference.position >= 37 and len(report.difference.plain_top) == 2


def test_a_wrong_kept_prefix_is_found(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation control: kept values that are off in their newest row; nothing else would show it."""
    prompt = [np.random.default_rng(0).integers(3, 200, 150).tolist()]
    params = SamplingParams(max_tokens=24, seed=1, ignore_eos=True)

    def make(threads: int, kv: KVFormat) -> LLM:
        return LLM(models["E4B"], threads=threads, kv=kv)

    report = verify(make, (1, 2), prompt, params)
    assert report.identical and report.reused >= 128
    real = KVRings.restore

    def damaged(self, blocks):  # type: ignore[no-untyped-def]
        real(self, blocks)
        for held in self.planes:
            block, at = divmod(self.length - 1, 64)
            held.arrays[1][:, block % held.arrays[1].shape[1], at] += np.float16(0.5)

    monkeypatch.setattr(KVRings, "restore", damaged)
    report = verify(make, (1, 2), prompt, params)
    assert report.difference is not None and report.difference.other.batch in ("others", "stored")


def test_a_wrong_stored_prefix_is_found(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation control: blocks of the prefix store whose bytes are not those that were computed."""
    prompt = [np.random.default_rng(0).integers(3, 200, 150).tolist()]
    params = SamplingParams(max_tokens=24, seed=1, ignore_eos=True)
    read = prefix_store.read_block

    def damaged(*args):  # type: ignore[no-untyped-def]
        block = bytearray(read(*args))
        block[len(block) // 2 - 7] ^= 0x10
        return memoryview(block)

    monkeypatch.setattr(prefix_store, "read_block", damaged)
    report = verify(lambda threads, kv: LLM(models["E4B"], threads=threads, kv=kv), (1, 2), prompt, params)
    assert report.difference is not None and report.difference.other.batch == "stored"
