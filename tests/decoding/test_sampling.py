"""Distributions against the textbook, penalties over drafts, purity of the draw, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geminate.arrays import F32
from geminate.decoding import sampling as module
from geminate.decoding import truncation
from geminate.decoding.sampling import (
    TokenCounts,
    distribution,
    draft_rule,
    draw,
    token_logprobs,
)
from geminate.errors import GeminateError, ParameterError
from geminate.params import ResolvedSampling, SamplingParams
from support import textbook

INF = math.inf


def resolved(**values: object) -> ResolvedSampling:
    return SamplingParams(**{"temperature": 1.0, "seed": 1, **values}).resolved()  # type: ignore[arg-type]


def counts(s: ResolvedSampling, prompt: tuple[int, ...] = (), output: tuple[int, ...] = ()) -> TokenCounts:
    made = TokenCounts(prompt, s)
    for token in output:
        made.append(token)
    return made


def logits(n: int, seed: int, levels: int | None = None) -> F32:
    """float32 [n]; few levels make ties."""
    x = np.random.default_rng(seed).standard_normal(n).astype(np.float32) * 2
    return x if levels is None else np.round(x * levels / 4).astype(np.float32)


options = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.5]),
        "top_k": st.sampled_from([0, 1, 2, 5, 20, 40, 100]),
        "top_p": st.sampled_from([0.05, 0.37, 0.83, 0.999, 1.0]),
        "min_p": st.sampled_from([0.0, 0.013, 0.31, 1.0]),
        "repetition_penalty": st.sampled_from([1.0, 1.3, 0.7]),
        "presence_penalty": st.sampled_from([0.0, 0.6, -0.9]),
        "frequency_penalty": st.sampled_from([0.0, 0.35]),
        "logit_bias": st.dictionaries(st.integers(0, 39), st.sampled_from([1.5, -2.0, 0.0, -INF]), max_size=4),
    }
)
tokens = st.lists(st.integers(0, 39), max_size=12).map(tuple)


@settings(deadline=None)  # a busy machine is no failure
@given(options, tokens, tokens, tokens, st.integers(0, 200), st.sampled_from([None, 2, 8]))
def test_distribution_is_the_textbooks(
    values: dict[str, object],
    prompt: tuple[int, ...],
    output: tuple[int, ...],
    drafts: tuple[int, ...],
    seed: int,
    levels: int | None,
) -> None:
    s = resolved(**values)
    row = logits(40, seed, levels)
    made = distribution(row, s, counts(s, prompt, output).extended(drafts))
    expected = textbook.law(row.tolist(), s, prompt, (*output, *drafts))
    assert made.ids.dtype == np.int64 and made.logp.dtype == np.float64
    assert made.ids.tolist() == list(expected)
    np.testing.assert_allclose(np.exp(made.logp), list(expected.values()), rtol=1e-9)
    assert np.exp(made.logp).sum() == pytest.approx(1, abs=1e-12)


@settings(deadline=None)  # a busy machine is no failure
@given(options, tokens, tokens, tokens, st.integers(0, 200))
def test_verify_row_and_decode_row_draw_the_same(
    values: dict[str, object],
    prompt: tuple[int, ...],
    output: tuple[int, ...],
    drafts: tuple[int, ...],
    seed: int,
) -> None:
    """Drafted tokens counted provisionally, and tokens really emitted, give the same bits."""
    s = resolved(**values)
    row = logits(40, seed)
    verify = distribution(row, s, counts(s, prompt, output).extended(drafts[:2]).extended(drafts[2:]))
    decode = distribution(row, s, counts(s, prompt, (*output, *drafts)))
    assert verify.ids.tobytes() == decode.ids.tobytes()
    assert verify.logp.tobytes() == decode.logp.tobytes()
    assert draw(verify, 3, 0, 99) == draw(decode, 3, 0, 99)


@pytest.mark.parametrize("n", [5, 63, 64, 65, 700, 5000, 70_001])
@pytest.mark.parametrize("levels", [None, 3, 40])
def test_largest_is_a_stable_sort(n: int, levels: int | None) -> None:
    x = logits(n, n, levels)
    order = np.lexsort((np.arange(n), -x))
    for k in (1, 2, 17, 64, 600, n - 1, n):
        if 0 < k <= n:
            ids, values = truncation.largest(x, k)
            assert ids.tolist() == sorted(order[:k].tolist())
            assert np.array_equal(values, x[ids].astype(np.float64))


@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
@pytest.mark.parametrize("top_p", [0.02, 0.5, 0.95, 0.99999, 1 - 1e-16])
def test_nucleus_of_a_large_vocabulary(spread: float, top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Growing blocks find what a full sort finds, whatever the block."""
    x = logits(20_000, 4) * np.float32(spread)
    s = resolved(top_p=top_p)
    made = distribution(x, s, counts(s))
    order = np.argsort(-x, kind="stable")
    p = np.exp(x[order].astype(np.float64) - x.max())
    p = np.round(p * 2.0**44)  # masses are multiples of 2**-44
    before = np.concatenate([[0.0], np.cumsum(p)[:-1]])
    assert len(made.ids) == pytest.approx((before < top_p * p.sum()).sum(), abs=1)
    assert set(made.ids.tolist()) == set(order[: len(made.ids)].tolist())
    for block in (1, 7, 20_000):
        monkeypatch.setattr(truncation, "_NUCLEUS_BLOCK", block)
        assert distribution(x, s, counts(s)).ids.tobytes() == made.ids.tobytes()


def test_nucleus_ends_where_its_mass_reaches_top_p() -> None:
    """A token stays while the mass before it is *below* top_p; equal tokens go by id."""
    row = np.ones(4, dtype=np.float32)
    for top_p, kept in ((0.25, 1), (0.5, 2), (0.51, 3), (0.75, 3), (0.76, 4)):
        s = resolved(top_p=top_p)
        assert distribution(row, s, counts(s)).ids.tolist() == list(range(kept))


def test_greedy_is_argmax_lowest_id_on_ties() -> None:
    s = resolved(temperature=0.0, top_k=3, top_p=0.5)
    row = np.array([0.0, 2.0, 1.0, 2.0], dtype=np.float32)
    law = distribution(row, s, counts(s))
    assert law.ids.tolist() == [1] and law.logp.tolist() == [0.0]
    assert {draw(law, seed, 0, t) for seed in range(5) for t in range(5)} == {1}


def test_greedy_counts_penalties_and_bias() -> None:
    row = np.array([3.0, 2.9, 2.8, -1.0], dtype=np.float32)
    s = resolved(temperature=0.0, presence_penalty=0.5)
    assert draw(distribution(row, s, counts(s, (0,))), 0, 0, 0) == 0  # the prompt does not count
    assert draw(distribution(row, s, counts(s, (), (0,))), 0, 0, 0) == 1
    assert draw(distribution(row, s, counts(s, (), (0,)).extended([1])), 0, 0, 0) == 2
    s = resolved(temperature=0.0, repetition_penalty=2.0)
    assert draw(distribution(row, s, counts(s, (0,), (1,))), 0, 0, 0) == 2
    s = resolved(temperature=0.0, logit_bias={0: -INF, 3: 4.0})
    assert draw(distribution(row, s, counts(s)), 0, 0, 0) == 3


def test_repetition_penalty_is_transformers_definition() -> None:
    row = np.array([4.0, -4.0, 1.0, 0.0], dtype=np.float32)
    s = resolved(repetition_penalty=2.0)
    law = distribution(row, s, counts(s, (0, 1, 1, 3)))
    expected = np.array([2.0, -8.0, 1.0, 0.0])
    np.testing.assert_allclose(law.logp - law.logp[2], expected - 1.0, rtol=1e-12)


def test_frequency_counts_every_occurrence() -> None:
    row = np.zeros(4, dtype=np.float32)
    s = resolved(frequency_penalty=0.5, presence_penalty=0.25)
    law = distribution(row, s, counts(s, (3, 3), (1, 1)).extended([1, 2]))
    np.testing.assert_allclose(law.logp - law.logp[0], [0, -1.75, -0.75, 0], atol=1e-12)


def test_matches_transformers_warpers() -> None:
    """Without ties at the boundary, the law is that of transformers' own processors, in its own order."""
    import torch
    from transformers.generation import logits_process as hf

    row = logits(300, 8)
    ids = torch.tensor([[5, 9, 9, 250]])
    s = resolved(temperature=0.7, top_k=50, top_p=0.9, min_p=0.03, repetition_penalty=1.4)
    scores = torch.tensor(row.astype(np.float64))[None]
    for step in (
        hf.RepetitionPenaltyLogitsProcessor(1.4),
        hf.TemperatureLogitsWarper(0.7),
        hf.TopKLogitsWarper(50),
        hf.TopPLogitsWarper(0.9),
        hf.MinPLogitsWarper(0.03),
    ):
        scores = step(ids, scores)
    expected = torch.softmax(scores, -1)[0].numpy()
    law = distribution(row, s, counts(s, (5, 9), (9, 250)))
    assert law.ids.tolist() == np.flatnonzero(expected).tolist()
    np.testing.assert_allclose(np.exp(law.logp), expected[law.ids], rtol=1e-6)


def test_tiny_temperature_is_nearly_greedy_and_finite() -> None:
    row = logits(1000, 1)
    for temperature in (1e-3, 1e-30, 5e-324):
        s = resolved(temperature=temperature)
        law = distribution(row, s, counts(s))
        assert np.isfinite(law.logp).all()
        assert draw(law, 1, 0, 1) == int(np.argmax(row))


def test_ties_in_the_draw_go_to_the_lowest_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "gumbel", lambda *_: np.zeros(3))
    s = resolved()
    assert draw(distribution(np.ones(3, dtype=np.float32), s, counts(s)), 0, 0, 0) == 0


def test_draw_depends_on_seed_choice_and_position() -> None:
    s = resolved()
    law = distribution(np.zeros(1000, dtype=np.float32), s, counts(s))
    base = draw(law, 1, 0, 50)
    assert draw(law, 1, 0, 50) == base
    assert len({base, draw(law, 2, 0, 50), draw(law, 1, 1, 50), draw(law, 1, 0, 51)}) == 4


@pytest.mark.parametrize("value", [math.nan, INF, -INF])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_logits_are_named(value: float, temperature: float) -> None:
    row = logits(100, 0)
    row[37] = value
    s = resolved(temperature=temperature)
    with pytest.raises(GeminateError, match="logit of token 37"):
        distribution(row, s, counts(s))
    with pytest.raises(GeminateError, match="logit of token 37"):
        token_logprobs(row, 0, 1)


def test_bias_outside_the_vocabulary_or_on_everything() -> None:
    s = resolved(logit_bias={100: 1.0})
    with pytest.raises(ParameterError, match="token id 100, outside the vocabulary of 100"):
        distribution(logits(100, 0), s, counts(s))
    s = resolved(logit_bias=dict.fromkeys(range(5), -INF))
    with pytest.raises(ParameterError, match="forbids every token"):
        distribution(logits(5, 0), s, counts(s))
    s = resolved(logit_bias={0: 1e308}, repetition_penalty=0.1)
    with pytest.raises(ParameterError, match="overflow"):
        distribution(logits(5, 0), s, counts(s, (0,)))


def test_forbidden_tokens_are_never_in_the_support() -> None:
    for values in ({}, {"top_k": 4}, {"top_p": 0.999999}):
        s = resolved(logit_bias={0: -INF, 2: -INF}, **values)
        assert not {0, 2} & set(distribution(logits(5, 0), s, counts(s)).ids.tolist())


def test_logits_are_not_changed() -> None:
    row = logits(500, 2)
    row.flags.writeable = False
    s = resolved(repetition_penalty=1.2, logit_bias={3: 1.0}, top_k=5, top_p=0.9, min_p=0.1)
    distribution(row, s, counts(s, (1, 2), (3,)))
    token_logprobs(row, 3, 5)


def test_logprobs_are_of_the_raw_logits() -> None:
    row = logits(3000, 3, levels=6)
    exact = row.astype(np.float64) - math.log(math.fsum(math.exp(v) for v in row.tolist()))
    made = token_logprobs(row, 17, 20)
    assert made.token == 17 and made.logprob == pytest.approx(exact[17], abs=1e-10)
    order = np.lexsort((np.arange(3000), -row))[:20]
    assert [t for t, _ in made.top] == order.tolist()
    assert [p for _, p in made.top] == pytest.approx(exact[order].tolist(), abs=1e-10)
    assert token_logprobs(row, 17, 0).top == ()
    assert len(token_logprobs(row[:3], 1, 20).top) == 3


def test_counts_cost_nothing_unless_needed() -> None:
    s = resolved()
    made = counts(s, tuple(range(50)), (1, 2))
    assert made.extended([3]) is made
    assert len(made.arrays()[0]) == 0


def test_counts_grow_past_their_first_capacity() -> None:
    s = resolved(presence_penalty=1.0)
    made = counts(s, tuple(range(300)), (*range(250, 450), 7))
    ids, output = made.arrays()
    assert sorted(ids.tolist()) == list(range(450))
    assert dict(zip(ids.tolist(), output.tolist(), strict=True))[7] == 1 and output.sum() == 201
    assert made.extended([]) is made


def test_provisional_counts_are_provisional() -> None:
    s = resolved(presence_penalty=1.0)
    made = counts(s, (1,))
    view = made.extended([2, 2, 1])
    assert sorted(zip(*(a.tolist() for a in view.arrays()), strict=True)) == [(1, 1), (2, 2)]
    assert made.arrays()[1].tolist() == [0]
    with pytest.raises(RuntimeError, match="provisional"):
        view.append(3)
    made.append(5)
    with pytest.raises(RuntimeError, match="had grown"):
        view.arrays()


def test_draft_rule_carries_everything_the_noise_needs() -> None:
    s = resolved(temperature=0.8, top_k=7, top_p=0.9, min_p=0.1, seed=42)
    rule = draft_rule(s, 3)
    assert (rule.temperature, rule.top_k, rule.top_p, rule.min_p) == (0.8, 7, 0.9, 0.1)
    assert (rule.seed, rule.choice) == (42, 3)
