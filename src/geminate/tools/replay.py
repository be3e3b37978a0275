"""Computes the answers of an audit log again and compares them token by token."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

from geminate.audit.fingerprints import NEEDED, Fingerprints
from geminate.audit.lines import Line, digest
from geminate.audit.runs import Past, UnreplayableError, ids_digest
from geminate.engine.messages import EngineEvent
from geminate.errors import GeminateError, GrammarError
from geminate.llm import LLM

MAX_NAMED = 1000
_NAMES = {
    "arithmetic": "another arithmetic",
    "kv": "another KV format",
    "backend": "another backend",
    "config": "another model configuration",
    "tokenizer": "another tokenizer",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The first disagreement of a line with its replay.

    Attributes:
        seq: the line's number. run, choice: which of its runs and choices.
        token: index of the first token that differs, from 0; None where the log has only hashes.
        logged, computed: the tokens there; None: the answer had ended, or nobody knows.
    """

    seq: int
    run: int
    choice: int
    token: int | None
    logged: int | None
    computed: int | None
    what: str

    def __str__(self) -> str:
        where = f"line {self.seq}, answer {self.run + 1}.{self.choice + 1}"
        return f"{where}: {self.what}"


@dataclass(kw_only=True)
class Tally:
    """What replays found.

    Attributes:
        same: lines whose answers are the same. tokens: that were compared.
        differences: at most `MAX_NAMED` of ``differ``. skipped: reason -> lines.
    """

    same: int = 0
    differ: int = 0
    tokens: int = 0
    differences: list[Difference] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "same": self.same,
            "differ": self.differ,
            "tokens": self.tokens,
            "differences": [
                {
                    "seq": d.seq, "run": d.run, "choice": d.choice, "token": d.token, "logged": d.logged,
                    "computed": d.computed, "message": str(d),
                }
                for d in self.differences
            ],
            "skipped": dict(self.skipped),
        }  # fmt: skip


class Replayer:
    """Replays lines with a loaded model.

    Args:
        own: the model's fingerprints. speculation: how to draft; None: as it was then.
        known: prompts and grammars that the log may leave out. force: replay lines of other weights or programs too.
    """

    def __init__(
        self,
        llm: LLM,
        own: Fingerprints,
        *,
        speculation: str | int | None = None,
        known: Known | None = None,
        force: bool = False,
        tally: Tally | None = None,
    ) -> None:
        self.llm, self.own, self.force = llm, own, force
        self.speculation, self.known = speculation, known or Known()
        self.tally = tally or Tally()
        self._facts: dict[str, Mapping[str, Any]] = {own.program: own.facts}

    def learn(self, line: Line) -> None:
        """Take the facts that a line of the type ``start`` has."""
        facts = line.record.get("facts")
        if line.type == "start" and isinstance(facts, dict):
            self._facts[str(line.record.get("program"))] = facts

    def replay(self, line: Line) -> None:
        """Compute the answers of a request's line again."""
        try:
            runs = self._runs(line.record)
            self._check_origin(line.record)
            tokens, difference = 0, None
            for index, past in enumerate(runs):
                compared, difference = self._replay_run(line.seq, index, past)
                tokens += compared
                if difference is not None:
                    break
        except UnreplayableError as error:
            self.tally.skipped[str(error)] += 1
            return
        self.tally.tokens += tokens
        if difference is None:
            self.tally.same += 1
            return
        self.tally.differ += 1
        if len(self.tally.differences) < MAX_NAMED:
            self.tally.differences.append(difference)

    @staticmethod
    def _runs(record: Mapping[str, Any]) -> list[Past]:
        runs = record.get("runs")
        if not isinstance(runs, list):
            raise UnreplayableError("the line is not as this version writes it")
        if not runs:
            raise UnreplayableError("the request was refused before anything was generated")
        return [Past(run) for run in runs]

    def _check_origin(self, record: Mapping[str, Any]) -> None:
        if self.force:
            return
        if record.get("weights") != self.own.weights:
            raise UnreplayableError("other weights")
        program = str(record.get("program"))
        if program == self.own.program:
            return
        facts = self._facts.get(program)
        if facts is None:
            raise UnreplayableError("another program, whose facts are not in the log")
        for name in NEEDED:
            if facts.get(name) != self.own.facts[name]:
                raise UnreplayableError(_NAMES[name])

    def _replay_run(self, seq: int, index: int, past: Past) -> tuple[int, Difference | None]:
        if past.has_contents:
            raise UnreplayableError("its images or sounds are not in the log")
        if past.tokens == 0:
            raise UnreplayableError("it ended before its first token")
        ids = past.prompt_ids if past.prompt_ids is not None else self.known.prompts.get(past.prompt_sha256)
        if ids is None:
            raise UnreplayableError("its prompt is not in the log (--audit-content ids), nor in --requests")
        grammar = past.grammar
        if past.grammar_sha256 is not None and grammar is None:
            grammar = self.known.grammars.get(past.grammar_sha256)
            if grammar is None:
                raise UnreplayableError("its grammar is not in the log (--audit-content ids), nor in --requests")
        if ids_digest(ids) != past.prompt_sha256 or (grammar and digest(grammar.encode()) != past.grammar_sha256):
            raise UnreplayableError("its prompt or grammar does not fit the hash beside it")
        request = past.request(f"replay-{seq}-{index}", ids, grammar, self.speculation)
        made: list[list[int]] = [[] for _ in past.choices]
        ends: list[str | None] = [None] * len(made)
        try:
            self.llm.service.submit(request)
            with closing(
                cast(Generator[EngineEvent, None, None], self.llm.service.events(request.request_id))
            ) as events:
                for event in events:
                    at = event.choice - past.first_choice
                    made[at] += event.token_ids
                    ends[at] = event.finish_reason or ends[at]
                    if not _agree(past.choices[at][2], made[at]):
                        return 0, _compare(seq, index, at, past.choices[at], made[at], ends[at])
        except GrammarError:
            pass  # it ended there then as well, or what follows says that it did not
        except GeminateError as error:
            raise UnreplayableError(f"it cannot run here ({error})") from None
        for at, (choice, ids, end) in enumerate(zip(past.choices, made, ends, strict=True)):
            found = _compare(seq, index, at, choice, ids, end)
            if found is not None:
                return 0, found
        return sum(choice[0] for choice in past.choices), None


def _agree(logged: list[int] | None, made: list[int]) -> bool:
    """Whether the tokens so far are those of the log."""
    if logged is None:
        return True
    count = min(len(logged), len(made))
    return logged[:count] == made[:count]


def _compare(
    seq: int, run: int, at: int, choice: tuple[int, str, list[int] | None, str], made: list[int], end: str | None
) -> Difference | None:
    count, sha256, logged, finish = choice
    if logged is not None and (len(logged) != count or ids_digest(logged) != sha256):
        raise UnreplayableError("its token ids do not fit the hash beside them")
    whole = finish in ("stop", "length")
    token = theirs = ours = None
    if logged is not None:
        token = next((i for i in range(count) if i >= len(made) or made[i] != logged[i]), None)
        if token is None and whole and len(made) > count:
            token = count
        if token is not None:
            theirs = logged[token] if token < count else None
            ours = made[token] if token < len(made) else None
            what = f"token {token} is {_named(theirs)} in the log and {_named(ours)} computed again"
            return Difference(seq=seq, run=run, choice=at, token=token, logged=theirs, computed=ours, what=what)
    elif ids_digest(made[:count]) != sha256 or (whole and len(made) != count):
        what = "the tokens are others (the log has their hash alone, so nobody knows which)"
        return Difference(seq=seq, run=run, choice=at, token=None, logged=None, computed=None, what=what)
    if whole and end != finish:
        what = f"it ended with {finish!r} then, and with {end!r} computed again"
        return Difference(seq=seq, run=run, choice=at, token=count, logged=None, computed=None, what=what)
    return None


def _named(token: int | None) -> str:
    return "none" if token is None else str(token)


class Known:
    """Prompts and grammars by their hash, of a file with requests."""

    def __init__(self) -> None:
        self.prompts: dict[str, list[int]] = {}
        self.grammars: dict[str, str] = {}

    def add(self, llm: LLM, text: str) -> bool:
        """A line of JSON: ``prompt_ids`` (or ``tokens``, as /tokenize answers), ``prompt`` (text), or ``messages`` with
        ``tools`` and ``enable_thinking``; beside one of them or alone ``grammar``, a source text; or a line of an audit
        log with ids. False if it is none of them.

        Raises:
            GeminateError: a prompt that this model cannot encode.
        """
        try:
            item = json.loads(text)
        except (ValueError, RecursionError):
            return False
        if not isinstance(item, dict):
            return False
        try:
            parts = list(self._parts(llm, item))
        except UnreplayableError:
            return False
        for ids, grammar in parts:
            if ids is not None:
                self.prompts[ids_digest(ids)] = ids
            if grammar is not None:
                self.grammars[digest(grammar.encode())] = grammar
        return bool(parts)

    @staticmethod
    def _parts(llm: LLM, item: Mapping[str, Any]) -> Iterator[tuple[list[int] | None, str | None]]:
        if item.get("type") in ("request", "start", "gap", "stop"):
            yield None, None
            for run in item.get("runs", ()):
                past = Past(run)
                yield past.prompt_ids, past.grammar
            return
        ids = item.get("prompt_ids", item.get("tokens"))
        grammar = item.get("grammar")
        if ids is None and isinstance(item.get("prompt"), (str, list)):
            ids = llm.encode(item["prompt"])
        elif ids is None and isinstance(item.get("messages"), list):
            ids = llm.chat_ids(item["messages"], tools=item.get("tools"), enable_thinking=item.get("enable_thinking"))
        if ids is not None or isinstance(grammar, str):
            checked = None if ids is None else llm.encode(ids)
            yield checked, grammar if isinstance(grammar, str) else None
