"""A conversation with a model: its messages, and the name under which the engine keeps its KV cache."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from geminate.output import Delta
from geminate.params import SamplingParams


class Conversable(Protocol):
    """What a session needs of an LLM; see `geminate.LLM`."""

    def chat_ids(self, messages: Sequence[Mapping[str, Any]], *, enable_thinking: bool | None = None) -> list[int]: ...

    def stream(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        *,
        speculation: str | int = "auto",
        conversation: str | None = None,
    ) -> Iterator[Delta]: ...

    def forget(self, conversation: str) -> None: ...


class ChatSession:
    """A conversation. What the next prompt shares with the turns before is not computed again.

    Sessions of one LLM may run in different threads; the turns of one session come one after the other.

    Attributes:
        messages: role/content mappings so far.
    """

    def __init__(self, llm: Conversable, *, system: str | None = None, enable_thinking: bool | None = None) -> None:
        self.llm = llm
        self.enable_thinking = enable_thinking
        self.messages: list[dict[str, Any]] = []
        if system:
            self.messages.append({"role": "system", "content": system})
        self._name = uuid.uuid4().hex

    def reset(self) -> None:
        """Forget all turns but the system message."""
        self.messages = [m for m in self.messages if m["role"] == "system"]
        self.llm.forget(self._name)

    def stream(
        self,
        text: str,
        params: SamplingParams | None = None,
        *,
        speculation: str | int = "auto",
    ) -> Iterator[Delta]:
        """Say something; the answer, as far as it was generated, joins the conversation.

        Yields:
            deltas of the answer; the last one carries the `Output`.

        Raises:
            GeminateError: the model has no chat template, or bad parameters; the conversation is as before then.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self.llm.chat_ids(messages, enable_thinking=self.enable_thinking)
        answer: list[str] = []
        try:
            for delta in self.llm.stream(ids, params, speculation=speculation, conversation=self._name):
                answer.append(delta.text)
                yield delta
        finally:
            self.messages = [*messages, {"role": "assistant", "content": "".join(answer)}]

    def __del__(self) -> None:
        self.llm.forget(self._name)
