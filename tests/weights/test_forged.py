"""What plans and kernels use as sizes and addresses is checked at every open of a packed file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geminate import LLM, SamplingParams
from geminate.errors import WeightsError
from geminate.plan.nodes import CentroidHead
from support.cache_files import forge
from support.packed import pack_matrix

ORDERING = "masked_embedding.token_ordering"
PARAMS = SamplingParams(max_tokens=12, ignore_eos=True)


def opened(cache: Path, models: dict[str, Path]) -> tuple[LLM, list[str]]:
    said: list[str] = []
    llm = LLM(models["E2B"], drafter=models["E2B"].parent / "E2B-assistant", cache_dir=cache, threads=1,
              on_message=said.append)  # fmt: skip
    return llm, said


def bad_orders(vocab: int) -> dict[str, np.ndarray]:
    ids = np.arange(vocab, dtype=np.int32)
    repeated, past = ids.copy(), ids.copy()
    repeated[-1] = 0
    past[vocab // 2] = vocab
    return {"negative": -1 - ids, "repeated": repeated, "past the vocabulary": past}


@pytest.mark.parametrize("which", ["negative", "repeated", "past the vocabulary"])
def test_an_ordering_that_is_no_permutation_is_packed_again(
    which: str, tmp_path: Path, models: dict[str, Path]
) -> None:
    llm, _ = opened(tmp_path, models)
    vocab = llm.pair.target.config.vocab_size
    expected = llm.generate([[5, 7, 9]], PARAMS, speculation=4)[0].token_ids
    llm.close()
    [file] = tmp_path.glob("E2B-assistant*.geminate")
    forge(file, arrays={ORDERING: bad_orders(vocab)[which]})
    llm, said = opened(tmp_path, models)
    assert any("is not a permutation" in line and "packing the weights again" in line for line in said)
    assert llm.generate([[5, 7, 9]], PARAMS, speculation=4)[0].token_ids == expected


def smaller(name: str, key: str) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        header["tensors"][name][key] -= 1

    return change


def flattened(name: str) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        header["arrays"][name]["shape"] = [-1]

    return change


def shortened(name: str) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        array = header["arrays"][name]
        array |= {"shape": [array["shape"][0] // 2], "nbytes": array["nbytes"] // 2}

    return change


def other_role(header: dict[str, Any]) -> None:
    header["tensors"]["embed_tokens"]["role"] = "row_table"


def without_a_tensor(header: dict[str, Any]) -> None:
    del header["tensors"]["norm"]


FORGED: dict[str, Callable[[dict[str, Any]], None]] = {
    "n": smaller("embed_tokens", "n"),
    "k": smaller("layers.0.mlp.down_proj", "k"),
    "stack": smaller("layers.0.mlp.down_proj", "stack"),
    "shape of a matrix": flattened("embed_tokens"),
    "size of a vector": shortened("norm"),
    "role": other_role,
    "missing": without_a_tensor,
}


@pytest.mark.parametrize("what", FORGED)
def test_sizes_that_are_not_the_configurations_are_packed_again(
    what: str, tmp_path: Path, models: dict[str, Path]
) -> None:
    LLM(models["E2B"], drafter=None, cache_dir=tmp_path, threads=1).close()
    [file] = tmp_path.glob("*.geminate")
    forge(file, FORGED[what])
    said: list[str] = []
    llm = LLM(models["E2B"], drafter=None, cache_dir=tmp_path, threads=1, on_message=said.append)
    assert not llm.pair.target.store.from_cache and any("packing the weights again" in line for line in said)


@pytest.mark.parametrize("which", ["negative", "repeated", "past the vocabulary"])
def test_no_plan_has_such_an_ordering(which: str) -> None:
    table = pack_matrix(np.ones((4, 3, 8), np.float32), "bf16")
    centroids = pack_matrix(np.ones((4, 8), np.float32), "bf16")
    with pytest.raises(WeightsError, match="not a permutation of its 12 token ids"):
        CentroidHead(x="x", out="logits", ids="ids", centroids=centroids, table=table,
                     ordering=bad_orders(12)[which], top_k=2)  # fmt: skip
