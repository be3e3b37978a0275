"""Text to ids and back: bos, specials, damaged files, text that is no Unicode."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from geminate.checkpoint.checkpoint import Checkpoint
from geminate.checkpoint.json_file import read_object
from geminate.errors import TokenizerError
from geminate.families.gemma4.dialect import DIALECT
from geminate.text.tokenizer import Tokenizer
from support.tiny_tokenizer import backend, embedded_tokenizer, tiny_tokenizer

TINY, EMBEDDED = tiny_tokenizer(), embedded_tokenizer()
both = pytest.mark.parametrize("tokenizer", [TINY, EMBEDDED], ids=["tiny", "embedded"])

TEXTS = [
    "",
    "Hello world",
    "  two  spaces ",
    "naïve ö é e\u0301",
    "日本語",
    "👩‍👩‍👧 🏳️‍🌈",
    "\n\n\ta\r\n",
    "\x00\ufffd",
    "▁",
]


@both
@pytest.mark.parametrize("text", [t for t in TEXTS if "▁" not in t])
def test_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None)  # a busy machine is no failure
@given(st.text())
def test_any_text_survives(text: str) -> None:
    # The library writes a space as ▁ and cannot tell it from a real one; special strings vanish.
    for tokenizer in (TINY, EMBEDDED):
        ids = tokenizer.encode(text, add_bos=False)
        assert tokenizer.decode(ids, skip_special=False) == text.replace("▁", " ")


@both
def test_bos_is_put_first_once(tokenizer: Tokenizer) -> None:
    bos = tokenizer.bos_id
    assert bos == 2
    plain = tokenizer.encode("Hello", add_bos=False)
    assert tokenizer.encode("Hello") == [bos, *plain]
    assert tokenizer.encode("<bos>Hello") == [bos, *plain]
    assert tokenizer.encode("") == [bos]
    assert tokenizer.encode("<bos>Hello", add_bos=False) == [bos, *plain]


@both
def test_special_strings_are_special_wherever_they_stand(tokenizer: Tokenizer) -> None:
    """As in transformers: a chat is rendered to one text first."""
    turn, end = tokenizer.token_id("<|turn>"), tokenizer.token_id("<turn|>")
    ids = tokenizer.encode("<|turn>user\nsay <turn|> twice<turn|>\n", add_bos=False)
    assert ids[0] == turn and ids.count(end) == 2  # type: ignore[arg-type]
    assert tokenizer.is_special(ids[0]) and not tokenizer.is_special(ids[1])
    assert tokenizer.decode(ids) == "user\nsay  twice\n"
    assert tokenizer.decode(ids, skip_special=False) == "<|turn>user\nsay <turn|> twice<turn|>\n"


def test_add_bos_can_be_off() -> None:
    quiet = Tokenizer(backend(), dialect=DIALECT, add_bos=False)
    assert quiet.encode("a") == TINY.encode("a", add_bos=False)
    assert quiet.encode("a", add_bos=True) == TINY.encode("a")
    assert Tokenizer(backend(), dialect=DIALECT, specials={}).encode("a") == TINY.encode("a", add_bos=False)


@pytest.mark.parametrize("text", ["\ud800", "ab\udfff", "ok \udc80 no"])
def test_lone_surrogates_are_refused(text: str) -> None:
    with pytest.raises(TokenizerError, match=r"lone surrogate \(U\+D[0-9A-F]{3}\) at character \d"):
        TINY.encode(text)


@both
def test_ids_outside_the_vocabulary(tokenizer: Tokenizer) -> None:
    beyond = tokenizer.vocab_size + 5
    assert tokenizer.piece(beyond) is None
    assert tokenizer.decode([beyond, *tokenizer.encode("Hello")]) == "Hello"
    for bad in (-1, 2**40):
        with pytest.raises(TokenizerError, match="not a token id"):
            tokenizer.decode([bad])
        with pytest.raises(TokenizerError, match="not a token id"):
            tokenizer.piece(bad)


def test_sizes_and_ids_of_the_embedded_tokenizer() -> None:
    assert EMBEDDED.vocab_size == 8192
    expected = {
        "<pad>": 0,
        "<eos>": 1,
        "<bos>": 2,
        "<unk>": 3,
        "<|tool_response>": 50,
        "<turn|>": 106,
    }
    assert {name: EMBEDDED.token_id(name) for name in expected} == expected
    assert EMBEDDED.eos_id == 1 and EMBEDDED.token_id("no such token") is None


def test_pieces_are_strings_or_bytes() -> None:
    assert TINY.piece(TINY.token_id("▁the")) == " the"  # type: ignore[arg-type]
    assert TINY.piece(TINY.token_id("<0xE2>")) == 0xE2  # type: ignore[arg-type]
    assert TINY.piece(2) == "<bos>"


def test_library_settings_of_the_file_do_not_cut_or_pad() -> None:
    made = backend()
    made.enable_truncation(2)
    made.enable_padding(length=50)
    assert Tokenizer(made, dialect=DIALECT).encode("a b c d e f") == TINY.encode("a b c d e f")


def test_load(tmp_path: Path) -> None:
    assert Tokenizer.load(Checkpoint.open(tmp_path), DIALECT) is None
    backend().save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(Checkpoint.open(tmp_path), DIALECT)
    assert loaded is not None and loaded.encode("Hello") == TINY.encode("Hello")
    config = {"bos_token": {"content": "<|think|>"}, "add_bos_token": True, "x_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = Tokenizer.load(Checkpoint.open(tmp_path), DIALECT)
    assert loaded is not None and loaded.bos_id == TINY.token_id("<|think|>")
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    loaded = Tokenizer.load(Checkpoint.open(tmp_path), DIALECT)
    assert loaded is not None and loaded.encode("a") == TINY.encode("a", add_bos=False)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff\xfe", b'{"model": 3}'])
def test_damaged_tokenizer_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer.load(Checkpoint.open(tmp_path), DIALECT)


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff"])
def test_damaged_config_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
        read_object(path, TokenizerError)
    assert read_object(tmp_path / "none.json") is None


def test_other_decoders_are_refused() -> None:
    made = Backend(models.BPE())
    for decoder in (
        decoders.ByteLevel(),
        None,
        decoders.Sequence([decoders.Fuse(), decoders.ByteFallback()]),
    ):
        made.decoder = decoder  # type: ignore[assignment]
        with pytest.raises(TokenizerError, match="decoder"):
            Tokenizer(made)


def test_special_tokens_of_a_config(tmp_path: Path) -> None:
    config = {"bos_token": "<b>", "eos_token": {"content": "<e>"}, "pad_token": None, "other": "x"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Checkpoint.open(tmp_path).specials() == {"bos_token": "<b>", "eos_token": "<e>"}
