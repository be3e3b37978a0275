"""One chat choice while it is generated: content, reasoning and tool calls."""

from __future__ import annotations

from typing import Any

from geminate.server.chunks import Chunk


class Choice:
    """Collects the deltas of one choice.

    Attributes:
        finish_reason: ``stop``, ``length`` or ``tool_calls`` once the choice has ended, None before.
        begun: whether a chunk of it was sent.
    """

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._arguments: dict[int, list[str]] = {}
        self.finish_reason: str | None = None
        self.begun = False

    def take(self, chunk: Chunk) -> dict[str, Any]:
        """Add a chunk and return it as a chat delta, which is empty if the chunk adds no text."""
        delta: dict[str, Any] = {}
        for part in chunk.deltas:
            if part.kind == "content":
                self._content.append(part.text)
                if part.text:
                    delta["content"] = delta.get("content", "") + part.text
            elif part.kind == "reasoning":
                self._reasoning.append(part.text)
                if part.text:
                    delta["reasoning_content"] = delta.get("reasoning_content", "") + part.text
            else:
                self._call(delta, part.index, part.call_id, part.name, part.text)
        if chunk.finish_reason is not None:
            # A tool call that was cut off by the token limit must not be acted on.
            called = self._calls and chunk.finish_reason == "stop"
            self.finish_reason = "tool_calls" if called else chunk.finish_reason
        return delta

    def _call(self, delta: dict[str, Any], index: int, id: str | None, name: str | None, text: str) -> None:
        sent: list[dict[str, Any]] = delta.setdefault("tool_calls", [])
        if index not in self._calls:
            self._calls[index] = {"id": id, "type": "function", "function": {"name": name}}
            self._arguments[index] = []
            sent.append({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": text}})
        elif sent and sent[-1]["index"] == index:
            sent[-1]["function"]["arguments"] += text
        else:
            sent.append({"index": index, "function": {"arguments": text}})
        self._arguments[index].append(text)

    @property
    def content(self) -> str:
        """The text so far."""
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(self._reasoning)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The tool calls in order, arguments as JSON text."""
        return [
            {**call, "function": {**call["function"], "arguments": "".join(self._arguments[index])}}
            for index, call in sorted(self._calls.items())
        ]

    def message(self) -> dict[str, Any]:
        """The message of a response that is not streamed."""
        calls = self.calls
        made: dict[str, Any] = {"role": "assistant", "content": self.content, "refusal": None}
        if self.reasoning:
            made["reasoning_content"] = self.reasoning
        if calls:
            made["content"] = made["content"] or None
            made["tool_calls"] = calls
        return made
