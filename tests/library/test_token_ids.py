"""What is no token id is refused as such, never rounded, and never as another exception."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from geminate import LLM, SamplingParams
from geminate.errors import GeminateError, ParameterError

FEW = SamplingParams(max_tokens=2, temperature=0.0)


@pytest.fixture(scope="module")
def llm(packed_cache: object) -> LLM:
    return LLM()


@pytest.mark.parametrize(
    "prompt",
    [None, 5, 1.5, b"abc", {}, [1.5, 2], [None], [[1.5, 2]], [["a"]], [[None]], [[True]], [b"abc"], [{}], [1, "a"],
     [[10**30]], [[-1]], [[10**5000]], [np.array([1.5])], [np.array([[1], [2]])]],
)  # fmt: skip
def test_odd_prompts_are_refused(llm: LLM, prompt: Any) -> None:
    with pytest.raises(ParameterError) as caught:
        llm.generate(prompt, FEW)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("ids", [None, 5, [1.5], ["a"], [None], [10**30], [[1], [2, 3]], [], [True], "ab"])
def test_odd_ids_for_logits(llm: LLM, ids: Any) -> None:
    with pytest.raises(ParameterError):
        llm.logits(ids)


def test_legal_ids(llm: LLM) -> None:
    expected = llm.generate([[2, 5, 9]], FEW)[0].token_ids
    for prompt in ([2, 5, 9], np.array([2, 5, 9]), [np.array([2, 5, 9], np.int64)], [(2, np.int32(5), 9)]):
        assert llm.generate(prompt, FEW)[0].token_ids == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["a", 1.5, None, -1])
def test_odd_ids_for_the_tokenizer(llm: LLM, value: Any) -> None:
    assert llm.tokenizer is not None
    for call in (lambda: llm.tokenizer.decode([value]), lambda: llm.tokenizer.piece(value)):
        with pytest.raises(GeminateError):
            call()
    with pytest.raises(GeminateError):
        llm.tokenizer.encode(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("top_k", [2**31, 2**63, 10**30, 10**4200])
def test_a_top_k_that_no_kernel_takes(top_k: int) -> None:
    with pytest.raises(ParameterError, match=r"top_k must be an integer from 0 to 2\*\*31 - 1"):
        SamplingParams(top_k=top_k)


def test_the_largest_top_k_drafts(llm: LLM) -> None:
    params = SamplingParams(max_tokens=8, temperature=1.0, seed=1, top_k=2**31 - 1)
    drafted = llm.generate("Once", params, speculation=4)[0]
    assert drafted.stats.drafted > 0
    assert drafted.token_ids == llm.generate("Once", params, speculation="off")[0].token_ids
