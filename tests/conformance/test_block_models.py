"""Models in block formats: weights as stored, logits within what int8 activations cost, whatever the file's mix."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as T
from transformers import AutoModelForCausalLM

from geminate import LLM, SamplingParams
from geminate.backends.cpu.program import supported_isas
from geminate.families.registry import load_target_config, open_model
from geminate.weights.opening import open_weights
from support.cli import geminate
from support.fabricate import VOCAB, WIDE, make_target
from support.fabricate_gguf import dequantized_copy, to_gguf

KINDS = (T.Q4_K, T.Q5_K, T.Q6_K, T.Q5_0, T.Q5_1, T.IQ4_NL)
BOUND = 0.02  # of the largest logit; rounding activations to int8 costs some 0.5 %, the same weights as int4 far more


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    root = tmp_path_factory.mktemp("blocks")
    return make_target("E2B", root / "wide", calm=True, changes=WIDE)


def prompt() -> np.ndarray:
    return np.random.default_rng(3).integers(3, VOCAB, 50).astype(np.int32)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_dequantized_weights(made, tmp_path, kind) -> None:  # type: ignore[no-untyped-def]
    file = to_gguf(made, tmp_path / "m.gguf", kind)
    copy = dequantized_copy(made, tmp_path / "wide", kind)
    oracle = AutoModelForCausalLM.from_pretrained(copy, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        want = oracle(input_ids=torch.tensor(prompt()[None].astype(np.int64))).logits[0].numpy()
    got = LLM(file, drafter=None).logits(prompt().tolist())
    most = np.abs(want).max()
    assert np.abs(got - want).max() <= BOUND * most
    coarse = LLM(file, drafter=None, weights="int4").logits(prompt().tolist())
    assert np.abs(coarse - want).max() > 1.5 * np.abs(got - want).max(), "the control: rounded a second time"


@pytest.mark.parametrize("kind", KINDS)
def test_no_second_rounding(made, tmp_path, kind) -> None:  # type: ignore[no-untyped-def]
    """Packed weights are the file's, bit for bit, in no more than 1.04 times its bytes; tables stay where they are."""
    file = to_gguf(made, tmp_path / "m.gguf", kind)
    config, said = load_target_config(file), list[str]()
    store = open_weights(open_model(file), config, "auto", use_cache=False, on_message=said.append)
    assert not [line for line in said if "requantized" in line]
    reader = {t.name: t for t in gguf.GGUFReader(file).tensors}
    seen = set()
    for name, entry in open_model(file).tensors.items():
        if entry.dtype != kind.name:
            continue
        expected = gguf.dequantize(reader[entry.name].data, kind)
        if name == "embed_tokens_per_layer":
            rows = np.arange(config.ple_vocab, dtype=np.int32)
            got = store.row_table(name).dequantized_rows(rows)
            assert store.tensor_bytes(name) == entry.nbytes
        else:
            assert store.matrix(name).format == kind.name.lower()
            got = store.matrix(name).dequantized()
            assert store.tensor_bytes(name) <= 1.04 * entry.nbytes
        assert np.array_equal(got.view(np.uint32), expected.view(np.uint32)), name
        seen.add(name.rsplit(".", 1)[-1])
    assert {"embed_tokens", "embed_tokens_per_layer", "q_proj", "down_proj"} <= seen


def test_the_same_text_on_every_instruction_set(made, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    kinds = {"token_embd": T.Q6_K, "attn_v": T.Q6_K, "ffn_down": T.Q5_K}
    file = to_gguf(made, tmp_path / "m.gguf", lambda name: kinds.get(name.split(".")[-2], T.Q4_K))
    params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
    seen = []
    for isa in supported_isas():
        monkeypatch.setenv("GEMINATE_ISA", isa)
        llm = LLM(file, drafter=None)
        for speculation in ("off", "ngram"):
            rows: list[np.ndarray] = []
            [out] = llm.generate(
                [prompt().tolist()],
                params,
                speculation=speculation,
                on_logits=lambda _, row, rows=rows: rows.append(row),
            )
            seen.append((tuple(out.token_ids), np.stack(rows).tobytes()))
    assert len(set(seen)) == 1


def test_a_packed_file_needs_no_other(made, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Its tables are copies of the file's blocks, which stay in the file otherwise."""
    file, packed = to_gguf(made, tmp_path / "m.gguf", T.Q5_K), tmp_path / "m.geminate"
    want = LLM(file, drafter=None).logits(prompt().tolist())
    done = geminate("pack", str(file), "--drafter", "none", "-o", str(packed))
    assert done.returncode == 0, done.stderr
    file.unlink()
    assert np.array_equal(LLM(packed, drafter=None).logits(prompt().tolist()), want)
