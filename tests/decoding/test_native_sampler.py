"""The native sampler against the NumPy reference: the same tokens, errors and bits of log-probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest

from geminate.arrays import F32
from geminate.backends.cpu.program import NativeBackend, native_available, supported_isas
from geminate.backends.cpu.sampler import NativeSampler
from geminate.decoding.sampler import ReferenceSampler, RowsToDraw, SequenceSampler
from geminate.errors import GeminateError, ParameterError
from geminate.params import ResolvedSampling, SamplingParams

pytestmark = pytest.mark.skipif(not native_available(), reason="the native module is not built")
REFERENCE = ReferenceSampler()
INF = math.inf
# Around one and two stripes of the kernels, far fewer, and enough of them for several threads.
SIZES = [1, 2, 5, 300, 1023, 1024, 1025, 2048, 5000, 40_000]


def sampler(isa: str, threads: int) -> NativeSampler:
    return NativeBackend(threads, isa).sampler


def random_rows(g: np.random.Generator, rows: int, n: int) -> F32:
    """float32 [rows, n]: flat to peaked, some with many ties."""
    x = (g.standard_normal((rows, n)) * g.choice([0.0, 0.1, 1, 3, 10])).astype(np.float32)
    return np.round(x * 2) / 2 if g.random() < 0.5 else x


def random_params(g: np.random.Generator, n: int) -> ResolvedSampling:
    bias = {int(t): float(g.choice([1.5, -2.0, -INF, 30.0])) for t in g.integers(0, n, 3)} if g.random() < 0.4 else {}
    return SamplingParams(
        temperature=float(g.choice([0, 0.3, 1, 1, 2.5, 1e-300, 1e200])),
        top_k=int(g.choice([0, 0, 1, 5, 64, 1000])),
        top_p=float(g.choice([1, 1, 0.9, 0.5, 0.05, 0.999999, 1 - 1e-16])),
        min_p=float(g.choice([0, 0, 0.05, 1.0, 5e-324])),
        repetition_penalty=float(g.choice([1, 1, 1.3, 0.7])),
        presence_penalty=float(g.choice([0, 0.6, -0.9])),
        frequency_penalty=float(g.choice([0, 0.35])),
        logit_bias=bias,
        seed=int(g.integers(1 << 62)),
    ).resolved()


def outcome(sequence: SequenceSampler, logits: F32, *rest: object) -> int | str:
    """A token, or the error."""
    try:
        return sequence.draw(logits, *rest)  # type: ignore[arg-type]
    except GeminateError as error:
        return str(error)


def pair(native: NativeSampler, params: ResolvedSampling, prompt: list[int], output: list[int]):
    """The same sequence on both samplers."""
    made = native.sequence(params, 2, prompt), REFERENCE.sequence(params, 2, prompt)
    for sequence in made:
        for token in output:
            sequence.append(token)
    return made


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", supported_isas())
def test_tokens_are_the_references(isa: str, threads: int) -> None:
    g = np.random.default_rng(threads)
    native = sampler(isa, threads)
    ends = 0
    for trial in range(150):
        n = SIZES[trial % len(SIZES)]
        x, params = random_rows(g, 4, n), random_params(g, n)
        one, other = pair(native, params, g.integers(0, n, 50).tolist(), g.integers(0, n, 20).tolist())
        drafts = tuple(g.integers(0, n, 3).tolist())
        drawn = native.draw_ahead(x, [RowsToDraw(sampler=one, first=0, position=70, drafts=drafts)])[0]
        allowed = g.random(n) < 0.3
        allowed[-1] = True
        for row in range(4):
            expected = outcome(other, x[row], 70 + row, drafts[:row])
            if row < len(drawn):
                assert (drawn[row] == expected) if drawn[row] >= 0 else isinstance(expected, str), (n, params, row)
            else:
                ends += 1
            masked = [outcome(sequence, x[row], 70 + row, drafts[:row], allowed) for sequence in (one, other)]
            assert masked[0] == masked[1], (n, params, row)
    assert ends > 0  # small rows end with the first that is not the draft


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_of_many_sequences_are_each_their_own(threads: int) -> None:
    """Parts side by side, penalised or not, with drafts or not, draw what each draws alone; large rows, every stage."""
    g = np.random.default_rng(7)
    n = 70_000
    native = sampler(supported_isas()[0], threads)
    for _ in range(3):
        settings = [random_params(g, n) for _ in range(8)]
        lengths = g.integers(0, 3, 8)
        x = random_rows(g, int((lengths + 1).sum()), n)
        pairs = [pair(native, s, g.integers(0, n, 9).tolist(), g.integers(0, n, 5).tolist()) for s in settings]
        firsts = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]]).tolist()
        drafts = [tuple(g.integers(0, n, k).tolist()) for k in lengths]
        parts = [
            RowsToDraw(sampler=one, first=first, position=100, drafts=d)
            for (one, _), first, d in zip(pairs, firsts, drafts, strict=True)
        ]
        for (_, other), first, d, drawn in zip(pairs, firsts, drafts, native.draw_ahead(x, parts), strict=True):
            for row, token in enumerate(drawn):
                expected = outcome(other, x[first + row], 100 + row, d[:row])
                assert token == expected or (token == -1 and isinstance(expected, str))


@pytest.mark.parametrize("isa", supported_isas())
def test_every_stage_of_top_p_on_a_large_row(isa: str) -> None:
    """The best of all tokens is kept by top_p, or it is not and the nucleus has to be found; both happen."""
    g = np.random.default_rng(5)
    native = sampler(isa, 2)
    kept = set()
    for seed, top_p in enumerate([0.3, 0.5, 0.8, 0.05] * 2):
        x = random_rows(g, 1, 110_000)
        params = SamplingParams(temperature=1.0, top_p=top_p, seed=seed).resolved()
        plain = SamplingParams(temperature=1.0, seed=seed).resolved()
        one, other = pair(native, params, [], [])
        token = one.draw(x[0], 3)
        assert token == other.draw(x[0], 3)
        kept.add(token == native.sequence(plain, 2, []).draw(x[0], 3))
    assert kept == {True, False}


def test_equal_logits_and_noise_that_decides() -> None:
    """A constant row is all noise; over many positions the extremes of the noise are met."""
    native = sampler(supported_isas()[0], 1)
    x = np.zeros((1, 262_144), dtype=np.float32)
    for top_p, positions in ((1.0, 4), (0.4, 2)):
        one, other = pair(native, SamplingParams(temperature=1.0, top_p=top_p, seed=3).resolved(), [], [])
        for position in range(positions):
            assert one.draw(x[0], position) == other.draw(x[0], position)


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("threads", [1, 2])
def test_logprobs_have_the_references_bits(isa: str, threads: int) -> None:
    g = np.random.default_rng(1)
    native = sampler(isa, threads)
    for n in (1, 3, 300, 1025, 70_000):
        for rows in (1, 5):
            x = random_rows(g, rows, n)
            tokens = g.integers(0, n, rows).tolist()
            for top in (0, 1, 20):
                assert native.logprobs(x, tokens, top) == REFERENCE.logprobs(x, tokens, top)


@pytest.mark.parametrize("value", [math.nan, INF, -INF])
@pytest.mark.parametrize("n", [40, 1024, 3000])
def test_a_broken_row_is_its_own_failure(value: float, n: int) -> None:
    g = np.random.default_rng(2)
    native = sampler(supported_isas()[0], 2)
    x = random_rows(g, 3, n)
    x[1, n - 3] = value
    params = SamplingParams(temperature=1.0, seed=1).resolved()
    sequences = [native.sequence(params, i, []) for i in range(3)]
    parts = [RowsToDraw(sampler=s, first=i, position=4, drafts=()) for i, s in enumerate(sequences)]
    drawn = native.draw_ahead(x, parts)
    assert drawn[0][0] >= 0 and drawn[1] == [-1] and drawn[2][0] >= 0
    with pytest.raises(GeminateError, match=f"logit of token {n - 3}"):
        sequences[1].draw(x[1], 4)
    with pytest.raises(GeminateError, match=f"logit of token {n - 3}"):
        native.logprobs(x, [0, 0, 0], 2)


def test_errors_are_the_references() -> None:
    native = sampler(supported_isas()[0], 1)
    x = random_rows(np.random.default_rng(0), 1, 50)[0]
    forbidden = SamplingParams(temperature=1.0, logit_bias=dict.fromkeys(range(50), -INF)).resolved()
    outside = SamplingParams(temperature=1.0, logit_bias={3: 1.0, 2**70: 1.0}).resolved()
    for params in (forbidden, outside):
        one, other = pair(native, params, [], [])
        assert outcome(one, x, 0) == outcome(other, x, 0) and isinstance(outcome(one, x, 0), str)
    params = SamplingParams(temperature=0.0, logit_bias={4: -INF}).resolved()
    one, other = pair(native, params, [], [])
    allowed = np.arange(50) == 4
    with pytest.raises(ParameterError, match="grammar allows"):
        one.draw(x, 0, (), allowed)
    assert other.draw(x, 0) == one.draw(x, 0)


def test_changed_logits_are_not_written_to_the_row() -> None:
    native = sampler(supported_isas()[0], 1)
    x = random_rows(np.random.default_rng(0), 1, 3000)
    x.flags.writeable = False
    before = x.copy()
    params = SamplingParams(temperature=1.0, logit_bias={7: -INF, 2500: 3.0}, repetition_penalty=1.5, seed=1).resolved()
    native.sequence(params, 0, [1, 2, 3]).draw(x[0], 5, (9,), np.ones(3000, dtype=np.bool_))
    native.logprobs(x, [1], 3)
    assert np.array_equal(x, before)
