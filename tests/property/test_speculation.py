"""Any drafter, any k, any chunking, batch and backend: tokens and logits equal plain decoding."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geminate import LLM, SamplingParams
from geminate.engine.engine import Engine
from geminate.params import MAX_DRAFT
from geminate.speculation.draft import Draft, DraftContext
from support.fabricate import SIZES, VOCAB

SLOW = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Oracle:
    """Guesses a known text, wrong with a given chance: every acceptance pattern occurs."""

    def __init__(self, text: list[int], wrong: float, seed: int) -> None:
        self.text, self.wrong, self.rng = text, wrong, np.random.default_rng(seed)

    def draft(self, context: DraftContext, k: int) -> Draft:
        ids = []
        for i in range(k):
            at = len(context.token_ids) + i
            right = self.text[at] if at < len(self.text) else 3
            ids.append(int(self.rng.integers(VOCAB)) if self.rng.random() < self.wrong else right)
        return Draft(token_ids=tuple(ids), confidence=(0.5,) * k)


def watched(llm: LLM, prompt: list[int], params: SamplingParams, speculation: object) -> tuple[list[int], str]:
    digest = hashlib.blake2b()
    positions: list[int] = []

    def watch(position: int, logits: np.ndarray) -> None:
        positions.append(position)
        digest.update(logits.tobytes())

    out = llm.generate([prompt], params, speculation=speculation, on_logits=watch)[0]  # type: ignore[arg-type]
    assert positions == list(range(len(prompt), len(prompt) + len(out.token_ids)))
    return out.token_ids, digest.hexdigest()


@pytest.fixture(scope="module", params=[("E2B", "int8"), ("26B-A4B", "int4"), ("31B", "bf16")])
def llm(request: pytest.FixtureRequest, models: dict[str, Path]) -> LLM:
    size, weights = request.param
    return LLM(models[size], weights=weights, threads=2, prefill_chunk=48)


@SLOW
@given(
    seed=st.integers(0, 1000), wrong=st.sampled_from([0.0, 0.2, 0.6, 1.0]), k=st.integers(0, MAX_DRAFT),
    temperature=st.sampled_from([0.0, 0.8, 1.5]), length=st.integers(1, 60), penalty=st.sampled_from([1.0, 1.3]),
)  # fmt: skip
def test_any_drafter_any_k(
    llm: LLM, seed: int, wrong: float, k: int, temperature: float, length: int, penalty: float
) -> None:
    prompt = np.random.default_rng(seed).integers(3, VOCAB, length).tolist()
    params = SamplingParams(
        max_tokens=60,
        temperature=temperature,
        seed=seed,
        top_k=20,
        ignore_eos=True,
        repetition_penalty=penalty,
        logit_bias={7: 1.5},
    )
    plain = watched(llm, prompt, params, 0)
    own = llm.engine.drafter
    try:
        llm.engine.drafter = Oracle(prompt + plain[0], wrong, seed)
        assert watched(llm, prompt, params, k) == plain
        assert watched(llm, prompt, params, "auto") == plain
    finally:
        llm.engine.drafter = own


@SLOW
@given(seed=st.integers(0, 1000), chunk=st.integers(1, 32), k=st.integers(0, 8))
def test_prefill_chunks(llm: LLM, seed: int, chunk: int, k: int) -> None:
    prompt = np.random.default_rng(seed).integers(3, VOCAB, 75).tolist()
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=seed, ignore_eos=True)
    plain = watched(llm, prompt, params, 0)
    llm.engine.scheduler.prefill_chunk = chunk
    try:
        assert watched(llm, prompt, params, k) == plain
    finally:
        llm.engine.scheduler.prefill_chunk = 48


def test_other_requests_in_the_batch_change_nothing(llm: LLM) -> None:
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, VOCAB, n).tolist() for n in (1, 5, 30, 61, 2, 17, 44, 9, 80, 3)]
    params = SamplingParams(max_tokens=24, temperature=0.9, seed=5, ignore_eos=True)
    alone = [llm.generate([p], params, speculation="off")[0].token_ids for p in prompts]
    for speculation in ("off", 3, "auto"):
        together = llm.generate(prompts, params, speculation=speculation)
        assert [o.token_ids for o in together] == alone


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
def test_every_size_and_format(size: str, weights: str, models: dict[str, Path]) -> None:
    llm = LLM(models[size], weights=weights, threads=2)  # type: ignore[arg-type]
    one = LLM(models[size], weights=weights, threads=1)  # type: ignore[arg-type]
    prompt = np.random.default_rng(2).integers(3, VOCAB, 33).tolist()
    for temperature in (0.0, 1.0):
        params = SamplingParams(max_tokens=40, temperature=temperature, seed=9, ignore_eos=True)
        plain = watched(llm, prompt, params, "off")
        for k in (1, 4, 8, "auto"):
            assert watched(llm, prompt, params, k) == plain
        assert watched(one, prompt, params, 3) == plain


@pytest.mark.parametrize("isa", ["scalar", "avx2", "reference"])
def test_other_instruction_sets(isa: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from geminate.backends.cpu.program import supported_isas

    if isa not in ("reference", *supported_isas()):
        assert isa == "avx2"  # the portable kernels are always there
        return
    monkeypatch.setenv("GEMINATE_ISA", isa)
    llm = LLM(models["E2B"], threads=2)
    prompt = [5, 9, 300, 41] * 8
    params = SamplingParams(max_tokens=16, temperature=0.7, seed=1, ignore_eos=True)
    plain = watched(llm, prompt, params, 0)
    for k in (1, 5):
        assert watched(llm, prompt, params, k) == plain


def test_turns_reuse_the_cache_and_change_nothing(models: dict[str, Path]) -> None:
    """Branches before the end of the cached tokens, past the sliding window, at partial acceptance."""
    llm = LLM(models["E2B"], threads=1)
    rng = np.random.default_rng(4)
    prompt = rng.integers(3, VOCAB, 20).tolist()
    params = SamplingParams(max_tokens=30, temperature=0.9, seed=3, ignore_eos=True)
    prompt_is_new = True
    for _ in range(5):
        *_, last = llm.stream(prompt, params, speculation=4, conversation="talk")
        assert last.output is not None
        fresh = llm.generate([prompt], params, speculation="off")[0]
        assert last.output.token_ids == fresh.token_ids
        assert last.output.stats.reused_tokens >= len(prompt) - 7 - 1 or prompt_is_new
        prompt_is_new = False
        keep = len(prompt) + int(rng.integers(5, 25))
        prompt = (prompt + fresh.token_ids)[:keep] + rng.integers(3, VOCAB, 7).tolist()


def test_a_broken_cache_is_caught(models: dict[str, Path]) -> None:
    """Mutation control: leaving rejected rows in the cache must change the output."""
    llm = LLM(models["E2B"], threads=1)
    prompt = list(range(10, 40))
    params = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)
    plain = watched(llm, prompt, params, 0)
    real = Engine._commit

    def shifted(self: Engine, rows: object, hidden: np.ndarray, logits: np.ndarray, ahead: list[int]) -> object:
        return real(self, rows, hidden, np.roll(logits, 1, axis=0), [])  # type: ignore[arg-type]

    try:
        Engine._commit = shifted  # type: ignore[method-assign, assignment]
        assert watched(llm, prompt, params, 4) != plain
    finally:
        Engine._commit = real  # type: ignore[method-assign]
