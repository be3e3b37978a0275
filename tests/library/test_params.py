"""Parameters say no early, by name, and resolve to what the engine runs on."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest

from geminate.errors import GeminateError, ParameterError
from geminate.params import MAX_DRAFT, ResolvedSampling, SamplingParams, parse_speculation

NAN, INF = math.nan, math.inf
GEMMA = {
    "do_sample": True,
    "temperature": 1.0,
    "top_p": 0.95,
    "top_k": 64,
    "eos_token_id": [1, 106],
}

BAD = [
    *[("max_tokens", v) for v in (0, -1, 1.5, True, "8", None)],
    *[("temperature", v) for v in (-0.1, NAN, INF, "1", True, 10**400)],
    *[("top_k", v) for v in (-1, 1.0, True, "3")],
    *[("top_p", v) for v in (0, 0.0, -0.5, 1.0001, NAN, True)],
    *[("min_p", v) for v in (-0.01, 1.01, NAN, False)],
    *[("repetition_penalty", v) for v in (0, -1, NAN, INF)],
    *[("presence_penalty", v) for v in (-2.01, 2.01, NAN, None)],
    *[("frequency_penalty", v) for v in (-2.01, 2.01, NAN, "0")],
    *[("logit_bias", v) for v in ({-1: 0}, {1: INF}, {1: NAN}, {"1": 0}, {1: "0"}, 5, "ab")],
    *[("logit_bias", v) for v in ([(1,)], [(1, 0), (1, 1)])],
    *[("seed", v) for v in (-1, 2**63, 0.5, True, "7")],
    *[("ignore_eos", v) for v in (1, None, "yes")],
    *[("stop", v) for v in ("", ["a", ""], [1], b"x", 3, None)],
    *[("stop_token_ids", v) for v in ([-1], ["1"], [1.0], 3, "12", None)],
    *[("logprobs", v) for v in (-1, 21, 1.0, True)],
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=name) as caught:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, GeminateError)


def test_message_names_value_and_range() -> None:
    with pytest.raises(ParameterError, match=r"temperature must be a finite number >= 0, not -1"):
        SamplingParams(temperature=-1)


def test_edges_are_legal() -> None:
    SamplingParams(max_tokens=1, temperature=0, top_k=0, top_p=1, min_p=1, repetition_penalty=1e-3)
    SamplingParams(presence_penalty=-2, frequency_penalty=2, seed=2**63 - 1, logprobs=20)
    SamplingParams(logit_bias={3: -INF}, logprobs=0, seed=0, top_p=1e-9, temperature=1e-300)


def test_what_is_not_implemented_does_not_exist() -> None:
    for name in ("n", "best_of", "beam", "use_beam_search"):
        with pytest.raises(TypeError):
            SamplingParams(**{name: 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        SamplingParams(16)  # type: ignore[misc]


def test_values_are_normalised() -> None:
    p = SamplingParams(
        top_k=np.int64(3),
        temperature=np.float32(0.5),
        stop=["b", "a", "b"],
        stop_token_ids=[9, 4, 9],
        logit_bias={7: 1, 2: -INF},
    )
    assert type(p.top_k) is int and type(p.temperature) is float
    assert p.stop == ("b", "a") and p.stop_token_ids == (4, 9)
    assert p.logit_bias == ((2, -INF), (7, 1.0))
    assert SamplingParams(stop="END").stop == ("END",)


def test_frozen_hashable_and_copyable() -> None:
    p = SamplingParams(logit_bias={1: 2.0}, stop="x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.top_k = 3  # type: ignore[misc]
    for twin in (copy.deepcopy(p), pickle.loads(pickle.dumps(p)), dataclasses.replace(p)):
        assert twin == p and hash(twin) == hash(p)
    assert dataclasses.asdict(p)["stop"] == ("x",)


def test_a_mapping_is_copied() -> None:
    bias = {1: 2.0}
    p = SamplingParams(logit_bias=bias)
    bias[2] = 3.0
    assert p.logit_bias == ((1, 2.0),)


def test_resolved_takes_the_models_defaults() -> None:
    r = SamplingParams(seed=5).resolved(GEMMA)
    assert (r.temperature, r.top_k, r.top_p, r.min_p, r.repetition_penalty) == (
        1.0,
        64,
        0.95,
        0.0,
        1.0,
    )
    assert r.seed == 5 and not r.greedy and not r.counts_tokens


def test_own_values_win() -> None:
    r = SamplingParams(temperature=0.3, top_k=0, top_p=1.0, min_p=0.1).resolved(GEMMA | {"min_p": 0.5})
    assert (r.temperature, r.top_k, r.top_p, r.min_p) == (0.3, 0, 1.0, 0.1)


def test_do_sample_false_is_greedy_unless_a_temperature_is_given() -> None:
    for defaults in ({}, None, {"do_sample": False, "temperature": 0.7}, {"temperature": 0.7}):
        assert SamplingParams().resolved(defaults).greedy
    assert SamplingParams(temperature=0.9).resolved({"do_sample": False}).temperature == 0.9
    assert SamplingParams().resolved({"do_sample": True, "top_k": None}).temperature == 1.0


def test_bad_defaults_are_named_as_the_models() -> None:
    with pytest.raises(ParameterError, match="generation_config top_p"):
        SamplingParams().resolved({"do_sample": True, "top_p": 7})


def test_seed_is_drawn_when_needed() -> None:
    seeds = {SamplingParams(temperature=1.0).resolved().seed for _ in range(20)}
    assert len(seeds) == 20 and all(0 <= s < 2**63 for s in seeds)
    assert SamplingParams(temperature=0.0).resolved().seed == 0
    assert SamplingParams(temperature=0.0, seed=9).resolved().seed == 9


def test_every_field_reaches_the_resolved_form() -> None:
    names = {f.name for f in dataclasses.fields(SamplingParams)}
    assert names == {f.name for f in dataclasses.fields(ResolvedSampling)}
    given = SamplingParams(
        max_tokens=3,
        temperature=0.5,
        top_k=2,
        top_p=0.5,
        min_p=0.25,
        repetition_penalty=1.5,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        logit_bias={1: 1.0},
        seed=4,
        ignore_eos=True,
        stop="s",
        stop_token_ids=[8],
        logprobs=2,
    )
    resolved = given.resolved()
    plain = SamplingParams().resolved()
    for name in names:
        assert getattr(resolved, name) == getattr(given, name) != getattr(plain, name)
    assert resolved.counts_tokens


@pytest.mark.parametrize(
    ("value", "parsed"),
    [("off", 0), ("auto", "auto"), ("AUTO", "auto"), (0, 0), (4, 4), ("4", 4), (np.int32(3), 3),
     (MAX_DRAFT, MAX_DRAFT), (str(MAX_DRAFT), MAX_DRAFT), ("ngram", "ngram")],
)  # fmt: skip
def test_speculation(value: object, parsed: object) -> None:
    assert parse_speculation(value) == parsed


@pytest.mark.parametrize("value", [-1, 17, "17", "-1", True, False, None, 2.0, "on", "", "²", "1" * 9, [3]])
def test_bad_speculation(value: object) -> None:
    with pytest.raises(
        ParameterError, match="speculation must be 'off', 'auto', 'ngram' or a draft length from 0 to 16"
    ):
        parse_speculation(value)
