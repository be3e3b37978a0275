"""The emitted stream is the plain stream and has the target's law; known mistakes are caught."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from geminate.decoding.sampling import TokenCounts, distribution, draw
from geminate.params import ResolvedSampling, SamplingParams
from support.gtest import Family
from support.toy_speculation import (
    Drafter,
    Round,
    Rule,
    ToyModel,
    argmax,
    clairvoyant,
    coupled,
    erratic,
    generate,
    project_rule,
    sequence_law,
)

LENGTH = 3
DRAWS = 4000
# Four settings, plain and speculative, and five mutants: 13 tests share this alpha.
FAMILY = Family(alpha=1e-6, planned=13)

MODEL = ToyModel(11)
NEAR = MODEL.near(12, 0.4)

SETTINGS = {
    "plain": SamplingParams(temperature=1.0, seed=0),
    "hot": SamplingParams(temperature=2.5, seed=0),
    "truncated": SamplingParams(temperature=0.8, top_k=6, top_p=0.9, min_p=0.02, seed=0),
    "penalties": SamplingParams(
        temperature=1.2,
        repetition_penalty=1.5,
        presence_penalty=0.9,
        frequency_penalty=0.7,
        logit_bias={2: 1.0, 5: float("-inf")},
        seed=0,
    ),
}
DRAFTERS = {
    "coupled": coupled(NEAR),
    "argmax": argmax(NEAR),
    "clairvoyant": clairvoyant(MODEL, wrong_from=99),
    "right once": clairvoyant(MODEL, wrong_from=1),
    "always wrong": clairvoyant(MODEL, wrong_from=0),
    "erratic": erratic(5),
    "constant": lambda tokens, k, sampling: (7,) * k,
}


def setting(name: str, seed: int) -> ResolvedSampling:
    return replace(SETTINGS[name].resolved(), seed=seed)


def counted(name: str, drafter: Drafter | None, k: int, rule: Rule) -> Counter[tuple[int, ...]]:
    return Counter(
        generate(MODEL, setting(name, seed), LENGTH, drafter=drafter, draft_model=NEAR, k=k, rule=rule)
        for seed in range(DRAWS)
    )


def has_law(test: str, name: str, drafter: Drafter | None, k: int, rule: Rule = project_rule) -> bool:
    law = sequence_law(MODEL, setting(name, 0), LENGTH)
    seen = counted(name, drafter, k, rule)
    return FAMILY.accepts(test, [seen[s] for s in law], list(law.values()))


def identical(name: str, drafter: Drafter, k: int, rule: Rule = project_rule, seeds: int = 12) -> bool:
    """Whether long streams are those of plain decoding."""
    return all(
        generate(MODEL, setting(name, seed), 40)
        == generate(MODEL, setting(name, seed), 40, drafter=drafter, draft_model=NEAR, k=k, rule=rule)
        for seed in range(seeds)
    )


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("name", SETTINGS)
def test_stream_is_the_plain_stream(name: str, drafter: str) -> None:
    for k in (1, 2, 3, 5, 16):
        assert identical(name, DRAFTERS[drafter], k, seeds=5), f"k={k}"


def test_greedy_stream_is_the_plain_stream() -> None:
    greedy = SamplingParams(temperature=0.0, repetition_penalty=1.3).resolved()
    plain = generate(MODEL, greedy, 60)
    for drafter in DRAFTERS.values():
        assert generate(MODEL, greedy, 60, drafter=drafter, k=4) == plain
    assert len(set(plain)) > 2


@pytest.mark.parametrize("name", SETTINGS)
def test_law_of_plain_decoding(name: str) -> None:
    assert has_law(f"plain decoding, {name}", name, None, 0)


@pytest.mark.parametrize("name", SETTINGS)
def test_law_with_drafts(name: str) -> None:
    assert has_law(f"drafts, {name}", name, coupled(NEAR), 2)


def test_coupled_noise_accepts_more_than_argmax() -> None:
    """Why the drafter shares the noise: it does not change the law, it changes the speed."""

    def accepted(drafter: Drafter) -> int:
        hits = 0

        def rule(r: Round) -> Sequence[int]:
            nonlocal hits
            tokens = project_rule(r)
            hits += len(tokens) - 1
            return tokens

        for seed in range(200):
            generate(MODEL, setting("plain", seed), 20, drafter=drafter, k=3, rule=rule)
        return hits

    assert accepted(coupled(NEAR)) > 1.2 * accepted(argmax(NEAR))


# --- mutants: each must fail both the law and the identity -------------------------------------------


def soft_q_rule(r: Round) -> Sequence[int]:
    """Accept argmax drafts with min(1, p/q) of a soft q, else the residual: transformers' mistake."""
    generator = np.random.default_rng([r.sampling.seed, r.start])
    tokens: list[int] = []
    for row, guess in enumerate(r.draft):
        p = np.exp(dense(distribution(r.rows[row], r.sampling, r.counts.extended(r.draft[:row]))))
        q = np.exp(dense(distribution(r.draft_rows[row], r.sampling, r.counts)))
        if generator.random() < p[guess] / q[guess]:
            tokens.append(guess)
            continue
        residual = np.maximum(p - q, 0)
        tokens.append(int(generator.choice(len(p), p=residual / residual.sum())))
        return tokens
    last = len(r.draft)
    p = np.exp(dense(distribution(r.rows[last], r.sampling, r.counts.extended(r.draft))))
    return [*tokens, int(generator.choice(len(p), p=p / p.sum()))]


def dense(law: object) -> np.ndarray:
    full = np.full(8, -np.inf)
    full[law.ids] = law.logp  # type: ignore[attr-defined]
    return full


def mutated(
    *,
    bonus_temperature: bool = True,
    position: str = "absolute",
    extend: bool = True,
) -> Rule:
    """The project's rule with one mistake."""

    def rule(r: Round) -> Sequence[int]:
        tokens: list[int] = []
        for row in range(len(r.draft) + 1):
            bonus = row == len(r.draft)
            sampling = r.sampling
            if bonus and not bonus_temperature:
                sampling = replace(sampling, temperature=1.0)
            counts: TokenCounts = r.counts.extended(r.draft[:row]) if extend else r.counts
            where = r.start + row
            if position == "row":
                where = row
            elif position == "bonus reuses" and bonus and row:
                where -= 1
            law = distribution(r.rows[row], sampling, counts)
            tokens.append(draw(law, sampling.seed, 0, where))
            if bonus or tokens[-1] != r.draft[row]:
                break
        return tokens

    return rule


MUTANTS = {
    "soft q on argmax drafts": ("plain", soft_q_rule, argmax(NEAR)),
    "bonus without temperature": ("hot", mutated(bonus_temperature=False), coupled(NEAR)),
    "noise keyed by row": ("plain", mutated(position="row"), coupled(NEAR)),
    "bonus reuses noise": ("plain", mutated(position="bonus reuses"), coupled(NEAR)),
    "drafts not counted": ("penalties", mutated(extend=False), coupled(NEAR)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_is_caught(mutant: str) -> None:
    name, rule, drafter = MUTANTS[mutant]
    assert not identical(name, drafter, 2, rule)
    assert not has_law(f"mutant {mutant}", name, drafter, 2, rule)


def test_mutation_frame_without_mistake_passes() -> None:
    """The control of the controls: the frame they share is right."""
    assert identical("penalties", coupled(NEAR), 2, mutated())
