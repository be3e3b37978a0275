"""Text to token ids and back, through the checkpoint's own tokenizer.

Special-token strings are recognised wherever they stand, in templates and in what a user typed, as
transformers does: ``apply_chat_template`` renders one text and then encodes it. Whoever passes text of
strangers into a prompt should know that it can hold the end of a turn.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers

from geminate.checkpoint.checkpoint import Checkpoint
from geminate.errors import ParameterError, TokenizerError
from geminate.text.call_tokens import CallTokens
from geminate.text.detokenizer import Detokenizer
from geminate.text.dialect import PLAIN, Dialect

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

LONG = 4096  # characters from which a text is encoded by the batch call


class Tokenizer:
    """Wraps a ``tokenizers.Tokenizer`` whose decoder makes ▁ a space and falls back to bytes.

    Args:
        backend: the tokenizer; truncation and padding are switched off.
        specials: names such as ``bos_token`` and their strings; None takes the dialect's, where they exist.
        add_bos: whether `encode` puts the bos token first.
        dialect: the family's marks.

    Raises:
        TokenizerError: a decoder that `piece` could not take apart exactly, or dropout.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        specials: Mapping[str, str] | None = None,
        add_bos: bool = True,
        dialect: Dialect = PLAIN,
    ) -> None:
        self.dialect = dialect
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._check_decoder()
        if dropout := getattr(backend.model, "dropout", None):
            raise TokenizerError(f"the tokenizer has dropout {dropout:g}, which makes prompts random; set it to null")
        if specials is None:
            known = dialect.specials.items()
            specials = {name: text for name, text in known if backend.token_to_id(text) is not None}
        self.specials: dict[str, str] = dict(specials)
        self.add_bos = add_bos
        self._special_ids = frozenset(
            token for token, added in backend.get_added_tokens_decoder().items() if added.special
        )
        self._pieces: dict[int, str | int | None] = {}

    @classmethod
    def load(cls, checkpoint: Checkpoint, dialect: Dialect = PLAIN) -> Tokenizer | None:
        """The tokenizer of a checkpoint, or None if it has none.

        Raises:
            TokenizerError: a damaged file.
        """
        parts = checkpoint.tokenizer()
        if parts is None:
            return None
        return cls(parts.backend, specials=parts.specials, add_bos=parts.add_bos, dialect=dialect)

    def _check_decoder(self) -> None:
        decoder = self._backend.decoder
        state = {} if decoder is None else json.loads(decoder.__getstate__())
        steps = state.get("decoders", [state])
        kinds = [step.get("type") for step in steps]
        if kinds not in (["Replace", "ByteFallback", "Fuse"], ["ByteFallback", "Fuse"]):
            raise TokenizerError(f"the tokenizer's decoder is {kinds}; Replace, ByteFallback, Fuse is needed")

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; a model's table may be padded beyond it."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def bos_id(self) -> int | None:
        """Id of the bos token, if there is one."""
        return self._special_id("bos_token")

    @property
    def eos_id(self) -> int | None:
        """Id of the tokenizer's eos token; a generation ends on those of generation_config and `turn_ends` too."""
        return self._special_id("eos_token")

    @property
    def turn_ends(self) -> list[int]:
        """Tokens that end the model's turn: the tokenizer's eos and the dialect's marks, as far as there are any."""
        found = [self.eos_id, *map(self.token_id, self.dialect.turn_ends)]
        return [token for token in dict.fromkeys(found) if token is not None]

    def save(self, directory: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, from which `load` makes the same tokenizer.

        Raises:
            OSError: the disk is full or not writable.
        """
        (directory / "tokenizer.json").write_text(self.to_json(), encoding="utf-8")
        config = {**self.specials, "add_bos_token": self.add_bos}
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def to_json(self) -> str:
        """The tokenizer as the text of a tokenizer.json."""
        return self._backend.to_str()

    def _special_id(self, name: str) -> int | None:
        text = self.specials.get(name)
        return None if text is None else self.token_id(text)

    def call_tokens(self) -> CallTokens:
        """The tokens that enclose a tool call, by the dialect's marks.

        Raises:
            ParameterError: the dialect has no tool calls, or the vocabulary lacks a token of theirs.
        """
        syntax = self.dialect.tools
        if syntax is None:
            raise ParameterError("this model's family has no syntax for tool calls: it cannot call tools")
        found: list[int] = []
        for text in (syntax.opened, syntax.closed, syntax.quote):
            token = self.token_id(text)
            if token is None:
                raise ParameterError(f"this model's tokenizer has no {text} token: it cannot call tools")
            found.append(token)
        return CallTokens(opened=found[0], closed=found[1], quote=found[2])

    def token_id(self, text: str) -> int | None:
        """Id of a token by its exact string; None if there is none, or no text is like it."""
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate in a model's configuration
            return None
        return self._backend.token_to_id(text)

    def is_special(self, token: int) -> bool:
        """Whether `decode` leaves this token out by default."""
        return token in self._special_ids

    @functools.cached_property
    def longest(self) -> int:
        """Characters of the longest token: a text has at least its length divided by this many tokens."""
        return max(map(len, self._backend.get_vocab(with_added_tokens=True)), default=1)

    def encode(self, text: str, *, add_bos: bool | None = None) -> list[int]:
        """Token ids of a text.

        Args:
            text: any string that is valid Unicode.
            add_bos: put bos first unless the text begins with its string; None: as the tokenizer's
                configuration says. A rendered chat is encoded with False: its template wrote bos.

        Raises:
            TokenizerError: a lone surrogate, or text the vocabulary cannot express.
        """
        if not isinstance(text, str):
            raise TokenizerError(f"only text can be encoded, not a {type(text).__name__}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character "
                f"{error.start}: it is not valid Unicode; read the input as UTF-8"
            ) from error
        try:
            if len(text) < LONG:
                ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
            else:  # the same ids; the batch call gives up the interpreter lock
                ids = self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except Exception as error:  # as in load
            raise TokenizerError(f"the text cannot be encoded: {error}") from error
        bos = self.bos_id
        wanted = self.add_bos if add_bos is None else add_bos
        if wanted and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def decode(self, token_ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids; ids outside the vocabulary are passed over, broken UTF-8 becomes U+FFFD.

        A character that is cut off at the end becomes one U+FFFD, and what stands before it is kept.

        Raises:
            TokenizerError: no integer, a negative one, or one of more than 32 bits.
        """
        ids = list(token_ids)
        try:
            text = self._backend.decode(ids, skip_special_tokens=skip_special)
            if not text.endswith("\ufffd"):
                return text
            start = len(ids)
            while start and self._within_bytes(ids[start - 1], skip_special):
                start -= 1
            text = self._backend.decode(ids[:start], skip_special_tokens=skip_special)
        except (OverflowError, TypeError) as error:
            raise TokenizerError(f"not a token id: {error}") from error
        run = Detokenizer(self, skip_special=skip_special)
        return text + run.extend(ids[start:]) + run.flush()

    def _within_bytes(self, token: int, skip_special: bool) -> bool:
        """Whether a token does not end a run of bytes."""
        piece = self.piece(token)
        return piece is None or isinstance(piece, int) or (skip_special and self.is_special(token))

    def piece(self, token: int) -> str | int | None:
        """What one token adds to a text: a string, one byte of UTF-8 (0..255), or None for no such id.

        Raises:
            TokenizerError: as `decode`.
        """
        if token in self._pieces:
            return self._pieces[token]
        piece: str | int | None
        try:
            name = self._backend.id_to_token(token)
        except (OverflowError, TypeError) as error:
            raise TokenizerError(f"not a token id: {error}") from error
        byte = None if name is None else _BYTE.fullmatch(name)
        if byte is not None:
            piece = int(byte[1], 16)
        elif name is None:
            piece = None
        else:
            piece = self._backend.decode([token], skip_special_tokens=False)
        self._pieces[token] = piece
        return piece
