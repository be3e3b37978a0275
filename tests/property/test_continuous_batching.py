"""Sequences that join, leave, wait and start from kept prefixes: ids and logits equal those of a cold run alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geminate import LLM, SamplingParams
from geminate.backends.kv_rings import KVRings
from geminate.engine.messages import EngineRequest
from geminate.engine.sequence import Sequence, StopCheck
from geminate.errors import ContextLengthError, EngineFailedError, GeminateError
from geminate.kv.budget import KVBudget
from support.engines import bounded, cold
from support.fabricate import SIZES, VOCAB

SLOW = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def params(seed: int, tokens: int = 24) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, temperature=(seed % 3) * 0.6, seed=seed, top_k=20, ignore_eos=True)


@pytest.fixture(scope="module", params=[("E2B", "int8", "f16"), ("26B-A4B", "int4", "int8"), ("31B", "bf16", "f16")])
def llm(request: pytest.FixtureRequest, models: dict[str, Path]) -> LLM:
    size, weights, kv = request.param
    return LLM(models[size], weights=weights, kv=kv, threads=2, prefill_chunk=96)


@SLOW
@given(
    seed=st.integers(0, 10**6), turns=st.integers(2, 6), share=st.sampled_from([1, 7, 32]),
    speculation=st.sampled_from([0, 3, "auto", "ngram"]),
)  # fmt: skip
def test_kept_prefixes_change_nothing(llm: LLM, seed: int, turns: int, share: int, speculation: object) -> None:
    """A tree of conversations: continued, branched in the middle of an answer, repeated whole, past every window."""
    rng = np.random.default_rng(seed)
    engine = bounded(llm, prefill_share=share)
    texts = [rng.integers(3, VOCAB, int(rng.integers(60, 260))).tolist()]
    for turn in range(turns):
        base = texts[int(rng.integers(len(texts)))]
        keep = int(rng.integers(1, len(base) + 1))
        prompt = base[:keep] + rng.integers(3, VOCAB, int(rng.integers(0, 40))).tolist()
        sampling = params(seed + turn)
        sequence = engine.add(prompt, sampling, speculation)
        engine.run()
        assert (sequence.output_ids, engine.digest(sequence)) == cold(llm, prompt, sampling)
        texts.append(sequence.token_ids)
    assert engine.engine.memory is not None and engine.engine.memory.used == 0


def test_prefixes_are_found(llm: LLM) -> None:
    """What the property above relies on: the second prompt does start from kept rows, in every slot."""
    engine = bounded(llm)
    prompt = np.random.default_rng(5).integers(3, VOCAB, 300).tolist()
    for expected in (0, 256):
        sequence = engine.add(prompt, params(1))
        engine.run()
        assert sequence.stats.reused_tokens == expected


def test_wrong_rows_are_noticed(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation control: values of a kept sliding-layer block that are lost change the logits."""
    engine = bounded(llm)
    prompt = np.random.default_rng(6).integers(3, VOCAB, 300).tolist()
    engine.add(prompt, params(2))
    engine.run()
    real = KVRings.restore

    def damaged(self: KVRings, blocks: list) -> None:  # type: ignore[type-arg]
        real(self, blocks)
        values = self.planes[0].arrays[1]
        values[:, (self.length - 1) // 64 % values.shape[1]] = 0

    monkeypatch.setattr(KVRings, "restore", damaged)
    sequence = engine.add(prompt, params(2))
    engine.run()
    assert engine.digest(sequence) != cold(llm, prompt, params(2))[1]


@SLOW
@given(
    seed=st.integers(0, 10**6), count=st.integers(2, 12), places=st.integers(1, 6), share=st.sampled_from([3, 16, 32]),
    limit=st.sampled_from([1.0, 2.5, 100.0]),
)  # fmt: skip
def test_others_waiting_and_leaving_change_nothing(
    llm: LLM, seed: int, count: int, places: int, share: int, limit: float
) -> None:
    """Requests of all kinds join between passes, wait for places and memory, some are aborted."""
    rng = np.random.default_rng(seed)
    need = KVBudget(llm.pair.target.kv, limit=0).need(200)
    watched = bounded(llm, limit=int(limit * need), max_running=places, prefill_share=share)
    engine, memory = watched.engine, watched.engine.memory
    assert memory is not None
    shared = rng.integers(3, VOCAB, 80).tolist()
    added: list[tuple[Sequence, list[int], SamplingParams]] = []
    aborted: set[Sequence] = set()
    order: list[Sequence] = []
    while len(added) < count or engine.running or engine.waiting:
        if len(added) < count and rng.random() < 0.4:
            prompt = (shared if rng.random() < 0.5 else []) + rng.integers(3, VOCAB, int(rng.integers(1, 90))).tolist()
            sampling = params(seed + len(added), int(rng.integers(1, 25)))
            mode = (0, 2, "auto", "ngram")[int(rng.integers(4))]
            added.append((watched.add(prompt, sampling, mode), prompt, sampling))
        elif added and rng.random() < 0.03:
            victim = added[int(rng.integers(len(added)))][0]
            if victim.finish_reason is None:
                engine.abort(victim)
                aborted.add(victim)
        watched.step()
        order += [s for s in engine.running if s not in order]
        assert len(engine.running) <= places
        assert memory.used + memory.kept <= memory.limit
    begun = [s for s, *_ in added if s in order]
    passed = [s for at, s in enumerate(begun) if any(order.index(s) > order.index(t) for t in begun[at + 1 :])]
    assert all(s.blocked_since is not None for s in passed), "only those whose memory is not there are passed"
    for sequence, prompt, sampling in added:
        if sequence not in aborted:
            assert (sequence.output_ids, watched.digest(sequence)) == cold(llm, prompt, sampling)
    assert memory.used == 0


def test_a_long_prompt_does_not_stall_answers(llm: LLM) -> None:
    """While a prompt comes in, every pass gives every answer a token, and a short prompt passes the long one."""
    engine = bounded(llm, prefill_share=16)
    rng = np.random.default_rng(3)
    answering = engine.add(rng.integers(3, VOCAB, 5).tolist(), params(0, 200), 0)
    while not answering.output_ids:
        engine.step()
    long = engine.add(rng.integers(3, VOCAB, 400).tolist(), params(3), 0)
    short = engine.add(rng.integers(3, VOCAB, 12).tolist(), params(6), 0)
    passes = 0
    while not long.output_ids:
        assert [e for e in engine.step() if e.request_id == answering.request.request_id]
        passes += 1
        if passes == 4:
            assert short.output_ids and not long.output_ids
    assert passes >= 400 / 16


def test_one_that_fails_leaves_the_others_alone(llm: LLM) -> None:
    def broken(request: EngineRequest) -> StopCheck:
        def check(token: int) -> bool:
            raise RuntimeError("a check of its own")

        return check

    watched = bounded(llm)
    engine = watched.engine
    engine._stop_checks = broken
    prompt = list(range(10, 40))
    bad = watched.add(prompt, replace(params(1), stop=["x"]))
    unlucky = watched.add(prompt, SamplingParams(logit_bias=dict.fromkeys(range(VOCAB), -np.inf)))
    good = watched.add(prompt, params(1))
    watched.run()
    errors = watched.errors
    assert isinstance(errors[bad.request.request_id], EngineFailedError)
    assert isinstance(errors[unlucky.request.request_id], GeminateError)
    assert good.request.request_id not in errors and good.output_ids == cold(llm, prompt, params(1))[0]
    assert engine.memory is not None and engine.memory.used == 0


def test_what_never_fits_is_refused(llm: LLM) -> None:
    engine = bounded(llm, limit=1 << 12)
    with pytest.raises(ContextLengthError, match="more memory"):
        engine.add([5] * 100, params(0))
    assert not engine.engine.waiting and not engine.engine.running


@pytest.mark.parametrize("size", SIZES)
def test_every_size_reuses(size: str, models: dict[str, Path]) -> None:
    llm = LLM(models[size], threads=2)
    engine = bounded(llm)
    prompt = np.random.default_rng(8).integers(3, VOCAB, 200).tolist()
    for reused in (0, 192):
        sequence = engine.add(prompt, params(4))
        engine.run()
        assert sequence.stats.reused_tokens == reused
        assert (sequence.output_ids, engine.digest(sequence)) == cold(llm, prompt, params(4))
