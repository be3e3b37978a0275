"""Tokenizers from GGUF metadata: BPE with merges, SentencePiece with scores, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geminate.checkpoint.checkpoint import Checkpoint
from geminate.checkpoint.gguf_file import GgufFile, read_gguf
from geminate.checkpoint.gguf_tokenizer import gguf_tokenizer
from geminate.errors import TokenizerError
from geminate.families.gemma4.dialect import DIALECT
from geminate.text.template import ChatTemplate
from geminate.text.tokenizer import Tokenizer

EMBEDDED = Path(__file__).resolve().parents[2] / "src" / "geminate" / "assets" / "embedded" / "target"
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def file_of(**values: Any) -> GgufFile:
    """A header with values under ``tokenizer.ggml.``."""
    return GgufFile(path=Path("x.gguf"), metadata={f"tokenizer.ggml.{k}": v for k, v in values.items()}, tensors={}, parts=())


def embedded_metadata() -> dict[str, Any]:
    """The embedded pair's tokenizer as llama.cpp's converter would write it."""
    whole = json.loads((EMBEDDED / "tokenizer.json").read_text())
    vocab = dict(whole["model"]["vocab"])
    added = {t["content"]: t for t in whole["added_tokens"]}
    vocab |= {text: t["id"] for text, t in added.items()}
    tokens = sorted(vocab, key=lambda t: vocab[t])
    types = [(3 if added[t]["special"] else 4) if t in added else 6 if t in BYTES else 1 for t in tokens]
    merges = [m if isinstance(m, str) else " ".join(m) for m in whole["model"]["merges"]]
    return {
        "model": "gemma4", "tokens": tokens, "token_type": np.array(types, np.int32), "merges": merges,
        "bos_token_id": vocab["<bos>"], "eos_token_id": vocab["<eos>"], "unknown_token_id": vocab["<unk>"],
        "add_space_prefix": False,
    }  # fmt: skip


@pytest.fixture(scope="module")
def both() -> tuple[Tokenizer, Tokenizer]:
    made = gguf_tokenizer(file_of(**embedded_metadata()))
    assert made is not None
    ours = Tokenizer.load(Checkpoint.open(EMBEDDED), DIALECT)
    assert ours is not None
    return Tokenizer(made[0], specials=made[1], add_bos=made[2]), ours


TEXTS = st.text(
    alphabet=st.one_of(
        st.sampled_from("abcdeins t\n\u2581<>|_.,0123456789"), st.characters(blacklist_categories=("Cs",))
    ),
    max_size=60,
)


@given(text=TEXTS)
def test_bpe_encodes_and_decodes_as_tokenizer_json(both: tuple[Tokenizer, Tokenizer], text: str) -> None:
    theirs, ours = both
    ids = theirs.encode(text)
    assert ids == ours.encode(text)
    assert theirs.decode(ids) == ours.decode(ids)
    assert [theirs.piece(i) for i in ids] == [ours.piece(i) for i in ids]


def test_bpe_knows_the_special_tokens(both: tuple[Tokenizer, Tokenizer]) -> None:
    theirs, ours = both
    text = "<bos><|turn>user\nhello <turn|>\n<|turn>model\n"
    assert theirs.encode(text) == ours.encode(text)
    assert theirs.bos_id == ours.bos_id and theirs.specials["unk_token"] == "<unk>"


PIECES = ["\u2581", "a", "b", "c", "ab", "bc", "abc", "aa", "aaa", "\u2581a", "ca", "cab", "bb", "\u2581\u2581", "ba"]


def scored(scores: list[float]) -> tuple[dict[str, int], dict[str, Any]]:
    """A SentencePiece vocabulary of PIECES with these scores."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *BYTES, *PIECES]
    types = [3, 3, 3, 2, *[6] * 256, *[1] * len(PIECES)]
    all_scores = np.array([0.0] * 260 + scores, np.float32)
    metadata = {
        "model": "llama", "tokens": tokens, "token_type": np.array(types, np.int32), "scores": all_scores,
        "bos_token_id": 2, "eos_token_id": 1, "unknown_token_id": 3, "add_space_prefix": False,
    }  # fmt: skip
    return {t: i for i, t in enumerate(tokens)}, metadata


def merged_by_score(text: str, vocab: dict[str, int], scores: np.ndarray) -> list[int]:
    """SentencePiece's BPE from its definition: again and again the leftmost pair with the best score."""
    pieces = list(text.replace(" ", "\u2581"))
    while True:
        best: tuple[float, int] | None = None
        for i in range(len(pieces) - 1):
            at = vocab.get(pieces[i] + pieces[i + 1])
            if at is not None and (best is None or scores[at] > best[0]):
                best = (float(scores[at]), i)
        if best is None:
            break
        pieces[best[1] : best[1] + 2] = ["".join(pieces[best[1] : best[1] + 2])]
    ids = []
    for piece in pieces:
        ids += [vocab[piece]] if piece in vocab else [vocab[f"<0x{b:02X}>"] for b in piece.encode()]
    return ids


@given(text=st.text(alphabet="abc \u00e9", max_size=24), order=st.permutations(range(len(PIECES))))
def test_scores_decide_as_in_sentencepiece(text: str, order: list[int]) -> None:
    vocab, metadata = scored([-float(i) for i in order])
    made = gguf_tokenizer(file_of(**metadata))
    assert made is not None
    got = made[0].encode(text, add_special_tokens=False).ids
    assert got == merged_by_score(text, vocab, metadata["scores"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "gpt2"}, "not supported"),
        ({"tokens": None}, "without a list of tokens"),
        ({"tokens": [1, 2]}, "without a list of tokens"),
        ({"scores": None}, "one number per token"),
        ({"scores": np.zeros(3, np.float32)}, "one number per token"),
        ({"token_type": np.zeros(3, np.int32)}, "one number per token"),
        ({"bos_token_id": 10**6}, "bos_token_id"),
        ({"bos_token_id": -1}, "bos_token_id"),
        ({"add_space_prefix": True}, "space before"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], says: str) -> None:
    _, metadata = scored([0.0] * len(PIECES))
    merged = {k: v for k, v in (metadata | changes).items() if v is not None}
    with pytest.raises(TokenizerError, match=says):
        gguf_tokenizer(file_of(**merged))


def test_two_tokens_of_one_text() -> None:
    _, metadata = scored([0.0] * len(PIECES))
    metadata["tokens"] = [*metadata["tokens"][:-1], "abc"]
    with pytest.raises(TokenizerError, match="both 'abc'"):
        gguf_tokenizer(file_of(**metadata))


def test_merges_that_join_nothing() -> None:
    metadata = embedded_metadata()
    with pytest.raises(TokenizerError, match="does not join"):
        gguf_tokenizer(file_of(**metadata | {"merges": ["zzzzzz qqqqqq"]}))
    with pytest.raises(TokenizerError, match="without merges"):
        gguf_tokenizer(file_of(**{k: v for k, v in metadata.items() if k != "merges"}))


def test_no_tokenizer_is_none() -> None:
    assert gguf_tokenizer(file_of()) is None


def test_templates_of_a_file(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "gemma4")
    writer.add_chat_template(
        [
            {"name": "default", "template": "{{ bos_token }}D{{ messages[0]['content'] }}"},
            {"name": "tool_use", "template": "T"},
        ]
    )
    writer.add_token_list(["<pad>", "<eos>", "<bos>"])
    writer.add_bos_token_id(2)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    template = ChatTemplate.load(Checkpoint.open(tmp_path / "t.gguf"), DIALECT)
    assert template is not None
    message = [{"role": "user", "content": "x"}]
    assert template.render(message) == "<bos>Dx"
    assert template.render(message, tools=[{"name": "f"}]) == "T"


@pytest.mark.skipif("GEMINATE_GEMMA4_VOCAB" not in os.environ, reason="set GEMINATE_GEMMA4_VOCAB to llama.cpp's file")
def test_the_gemma_4_vocabulary() -> None:
    """``models/ggml-vocab-gemma-4.gguf`` of the llama-cpp-python 0.3.36 sdist, with its .inp and .out beside it."""
    path = Path(os.environ["GEMINATE_GEMMA4_VOCAB"])
    tokenizer = Tokenizer.load(Checkpoint.open(path), DIALECT)
    assert tokenizer is not None
    texts = Path(f"{path}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    expected = [[int(i) for i in line.split()] for line in Path(f"{path}.out").read_text().splitlines()]
    assert len(texts) == len(expected) == 46
    assert [tokenizer.encode(text, add_bos=False) for text in texts] == expected
    assert read_gguf(path).metadata["tokenizer.chat_template"]
