"""What an engine request was asked and what it gave, as a part of a record; and the request again from that part."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from geminate.audit.lines import digest, is_hash
from geminate.engine.messages import EngineEvent, EngineRequest, Reply
from geminate.errors import GeminateError, ParameterError
from geminate.params import ResolvedSampling, SamplingParams, parse_speculation

ID_BYTES = 8  # of a token id in a line, roughly
REPLIES = ("text", "chat", "tools")


def ids_digest(ids: Sequence[int]) -> str:
    """SHA-256 of token ids as little-endian 32-bit integers."""
    return digest(np.array(ids, dtype="<i4").tobytes())


class Run:
    """Collects the events of one engine request.

    Args:
        model: the name of the model that it was for.
    """

    def __init__(self, request: EngineRequest, model: str = "") -> None:
        self.request, self.model = request, model
        self.ids = [list(request.emitted_ids) for _ in range(request.n)]
        self.finish: list[str | None] = [None] * request.n

    def take(self, event: EngineEvent) -> None:
        """An event of the request."""
        index = event.choice - self.request.choice
        self.ids[index] += event.token_ids
        if event.finish_reason is not None:
            self.finish[index] = event.finish_reason

    @property
    def nbytes(self) -> int:
        """Bytes of its ids in a line, roughly."""
        return ID_BYTES * (len(self.request.prompt_ids) + sum(map(len, self.ids))) + len(self.request.grammar or "")

    def record(self, *, with_ids: bool) -> dict[str, Any]:
        """The run as JSON.

        Args:
            with_ids: hold token ids and the grammar itself beside their hashes.
        """
        request = self.request
        made: dict[str, Any] = {
            "prompt": _ids(request.prompt_ids, with_ids),
            "sampling": _sampling(request.sampling),
            "speculation": request.speculation,
            "reply": request.reply,
            "first_choice": request.choice,
            "choices": [
                {**_ids(ids, with_ids), "finish": finish or "abort"}
                for ids, finish in zip(self.ids, self.finish, strict=True)
            ],
        }
        if request.grammar is not None:
            made["grammar"] = {"sha256": digest(request.grammar.encode())}
            if with_ids:
                made["grammar"]["source"] = request.grammar
        if request.contents:
            made["contents"] = [[span.start, span.stop, span.digest.hex()] for span in request.contents]
        return made


def _ids(ids: Sequence[int], with_ids: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"tokens": len(ids), "sha256": ids_digest(ids)}
    if with_ids:
        made["ids"] = list(ids)
    return made


def _sampling(sampling: ResolvedSampling) -> dict[str, Any]:
    """Resolved sampling; a bias of minus infinity, which JSON lacks, as null."""
    made = asdict(sampling)
    made["logit_bias"] = [[token, None if math.isinf(amount) else amount] for token, amount in sampling.logit_bias]
    return made


class UnreplayableError(Exception):
    """A run that cannot be computed again from what is known of it; the message is the reason."""


class Past:
    """A run of a log.

    Attributes:
        prompt_sha256, grammar_sha256: hashes of the prompt's ids and of the grammar's source (None: free text).
        prompt_ids, grammar: themselves, or None where the log leaves them out.
        choices: of each choice the number of tokens, their hash, the ids or None, and how it ended.

    Raises:
        UnreplayableError: fields are missing or have other types.
    """

    def __init__(self, run: Any) -> None:
        try:
            self._run: Mapping[str, Any] = run
            self.prompt_sha256, self.prompt_ids = _past_ids(run["prompt"])[1:]
            grammar = run.get("grammar")
            self.grammar_sha256 = None if grammar is None else _hash(grammar["sha256"])
            self.grammar: str | None = None if grammar is None else grammar.get("source")
            self.choices = [(*_past_ids(choice), str(choice["finish"])) for choice in run["choices"]]
            self.has_contents = bool(run.get("contents"))
            self.first_choice = int(run["first_choice"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UnreplayableError("the line is not as this version writes it") from None

    @property
    def tokens(self) -> int:
        """Tokens of the longest choice."""
        return max((choice[0] for choice in self.choices), default=0)

    def request(self, name: str, prompt_ids: list[int], grammar: str | None, speculation: object) -> EngineRequest:
        """The run's request, for as many tokens as are to be compared.

        Args:
            speculation: how to draft; None: as it was then.

        Raises:
            UnreplayableError: sampling that this version does not have.
        """
        run = self._run
        try:
            given = dict(run["sampling"])
            given["logit_bias"] = [[t, -math.inf if amount is None else amount] for t, amount in given["logit_bias"]]
            given["logprobs"] = None  # they are not in the log, and change nothing
            if all(finish == "abort" for *_, finish in self.choices):
                given["max_tokens"] = min(given["max_tokens"], self.tokens)
            if run["reply"] not in REPLIES:
                raise ParameterError(f"reply must be one of {', '.join(REPLIES)}")
            return EngineRequest(
                request_id=name,
                prompt_ids=prompt_ids,
                sampling=SamplingParams(**given).resolved(),
                speculation=parse_speculation(run["speculation"] if speculation is None else speculation),
                choice=self.first_choice,
                n=len(self.choices),
                grammar=grammar,
                reply=cast(Reply, run["reply"]),
            )
        except (GeminateError, KeyError, TypeError, ValueError) as error:
            raise UnreplayableError(f"its parameters are not as this version has them ({error})") from None


def _hash(value: object) -> str:
    if not is_hash(value):
        raise ValueError(f"no hash: {json.dumps(value)[:80]}")
    return cast(str, value)


def _past_ids(part: Mapping[str, Any]) -> tuple[int, str, list[int] | None]:
    """Number of tokens, their hash, and the ids if the log has them."""
    count, ids = part["tokens"], part.get("ids")
    if type(count) is not int or count < 0:
        raise ValueError("no number of tokens")
    if ids is not None and (not isinstance(ids, list) or any(type(token) is not int for token in ids)):
        raise ValueError("no token ids")
    return count, _hash(part["sha256"]), ids
