"""A conversation with a model: its messages, and the name under which the engine keeps its KV cache."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from geminate.engine.messages import Reply
from geminate.errors import ContextFullError, ParameterError, TokenizerError
from geminate.output import Delta
from geminate.params import SamplingParams
from geminate.text.template import check_messages


class Conversable(Protocol):
    """What a session needs of an LLM; see `geminate.LLM`."""

    @property
    def context_length(self) -> int: ...

    def chat_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        enable_thinking: bool | None = None,
        add_generation_prompt: bool | None = None,
    ) -> list[int]: ...

    def stream(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        *,
        speculation: str | int = "auto",
        conversation: str | None = None,
        reply: Reply = "text",
        **keywords: Any,
    ) -> Iterator[Delta]: ...

    def forget(self, conversation: str) -> None: ...


class ChatSession:
    """A conversation. What the next prompt shares with the turns before is not computed again.

    Sessions of one LLM may run in different threads; the turns of one session come one after the other.

    Args:
        system: a system message to begin with. messages: a conversation to begin with, instead.

    Attributes:
        messages: role/content mappings so far, which JSON can hold. Answers are kept without the thoughts before them.
        enable_thinking: passed to the template unless None.

    Raises:
        ParameterError: malformed messages, or both ``system`` and ``messages``.
    """

    def __init__(
        self,
        llm: Conversable,
        *,
        system: str | None = None,
        enable_thinking: bool | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.llm = llm
        self.enable_thinking = enable_thinking
        self.messages: list[dict[str, Any]] = []
        self._name = uuid.uuid4().hex
        self._answering = False
        if system and messages:
            raise ParameterError("a session begins with system or with messages, not with both")
        if messages:
            self.load(messages)
        self.system = system or self.system

    def __repr__(self) -> str:
        return f"ChatSession({len(self.messages)} messages, {self.context_used} of {self.context_length} tokens)"

    @property
    def system(self) -> str | None:
        """The text of the system message; settable, None removes it."""
        first = self.messages[0] if self.messages else {}
        return first["content"] if first.get("role") == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        rest = self.messages[1:] if self.system is not None else self.messages
        self.messages = [{"role": "system", "content": text}, *rest] if text else list(rest)

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer together may have."""
        return self.llm.context_length

    @property
    def context_used(self) -> int:
        """Tokens of the conversation so far, which the template renders for it.

        Raises:
            TokenizerError: the model has no chat template, or it refuses the messages.
        """
        return self._tokens(self.messages)

    def _tokens(self, messages: Sequence[Mapping[str, Any]]) -> int:
        if not messages:
            return 0
        try:
            return len(self.llm.chat_ids(messages, enable_thinking=self.enable_thinking, add_generation_prompt=False))
        except TokenizerError:
            if all(message["role"] == "system" for message in messages):
                return 0  # many templates refuse a system message alone
            raise

    def reset(self) -> None:
        """Forget all turns but the system message."""
        self.messages = [m for m in self.messages if m["role"] == "system"]
        self.llm.forget(self._name)

    def load(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Go on with this conversation instead, for example with the `messages` of an earlier session.

        Raises:
            ParameterError: malformed messages; the conversation is as before then.
        """
        check_messages(messages)
        self.messages = [copy.deepcopy(dict(message)) for message in messages]
        self.llm.forget(self._name)

    def save(self, path: str | Path) -> None:
        """Write the conversation as JSON, for `open`. Its KV cache is not part of it: the prefix store has that.

        Raises:
            ParameterError: the file cannot be written.
        """
        body = {"messages": self.messages, "enable_thinking": self.enable_thinking}
        try:
            Path(path).write_text(json.dumps(body, ensure_ascii=False, indent=1) + "\n", "utf-8")
        except OSError as error:
            raise ParameterError(f"cannot write {path}: {error.strerror}") from None

    @classmethod
    def open(cls, llm: Conversable, path: str | Path) -> ChatSession:
        """Go on with a conversation that `save` wrote, or with a JSON list of messages.

        With a prefix store, what it has of the conversation is not computed again.

        Raises:
            ParameterError: the file cannot be read, or holds no conversation.
        """
        session = cls(llm)
        session.load_file(path)
        return session

    def load_file(self, path: str | Path) -> None:
        """`load` what `save` wrote, or a JSON list of messages.

        Raises:
            ParameterError: the file cannot be read, or holds no conversation; the conversation is as before then.
        """
        try:
            body = json.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise ParameterError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise ParameterError(f"{path} is no JSON") from None
        whole = body if isinstance(body, dict) and "messages" in body else {"messages": body}
        self.load(whole["messages"])
        thinking = whole.get("enable_thinking", self.enable_thinking)
        self.enable_thinking = thinking if isinstance(thinking, bool) else None

    def compact(self, keep: int | None = None) -> int:
        """Drop the oldest turns until the conversation has at most ``keep`` tokens; None: half of the context.

        A turn is a user's message and what answers it. The system message and the last turn always stay.

        Returns:
            the number of messages that were dropped.
        """
        limit = self.context_length // 2 if keep is None else keep
        head = [m for m in self.messages[:1] if m["role"] == "system"]
        turns = self.messages[len(head) :]
        while self._tokens([*head, *turns]) > limit:
            following = next((i for i, m in enumerate(turns) if i and m["role"] == "user"), None)
            if following is None:
                break
            turns = turns[following:]
        dropped = len(self.messages) - len(head) - len(turns)
        self.messages = [*head, *turns]
        return dropped

    def retry(
        self, params: SamplingParams | None = None, *, speculation: str | int = "auto", **keywords: Any
    ) -> Iterator[Delta]:
        """Answer the last message of the user again; what answered it before is dropped. Otherwise as `stream`.

        Raises:
            ParameterError: there is no such message.
        """
        last = next((i for i in reversed(range(len(self.messages))) if self.messages[i]["role"] == "user"), None)
        if last is None:
            raise ParameterError("there is no answer to repeat: nothing was said yet")
        return self._answer(self.messages[: last + 1], params, speculation, keywords)

    def stream(
        self, text: str, params: SamplingParams | None = None, *, speculation: str | int = "auto", **keywords: Any
    ) -> Iterator[Delta]:
        """Say something; the answer, as far as it was generated, joins the conversation, without its thought.

        Args:
            keywords: fields of `SamplingParams`, which go before those of ``params``, and ``grammar``.

        Yields:
            deltas of the answer; the last one carries the `Output`.

        Raises:
            ContextFullError: the conversation leaves no room for an answer; see `compact` and `reset`.
            ParameterError: another stream of this session has begun and not ended.
            GeminateError: the model has no chat template, or bad parameters. The conversation is as before then.
        """
        return self._answer([*self.messages, {"role": "user", "content": text}], params, speculation, keywords)

    def _answer(
        self,
        messages: list[dict[str, Any]],
        params: SamplingParams | None,
        speculation: str | int,
        keywords: Mapping[str, Any],
    ) -> Iterator[Delta]:
        ids = self.llm.chat_ids(messages, enable_thinking=self.enable_thinking)
        if len(ids) >= self.context_length:
            raise ContextFullError(len(ids), self.context_length)
        if self._answering:
            raise ParameterError("this session is answering already; exhaust or close that stream first")
        answer: list[str] = []
        begun = False
        self._answering = True
        try:
            for delta in self.llm.stream(
                ids, params, speculation=speculation, conversation=self._name, reply="chat", **keywords
            ):
                begun = True
                answer.append(delta.text)
                yield delta
        finally:
            self._answering = False
            if begun:
                self.messages = [*messages, {"role": "assistant", "content": "".join(answer)}]

    def __del__(self) -> None:
        self.llm.forget(self._name)
