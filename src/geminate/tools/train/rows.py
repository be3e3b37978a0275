"""Rows of training data as people have them: what is asked, and perhaps what is answered.

A row is a JSON object with one of

- ``messages``: chat, ``[{"role", "content"}, ...]``; ``conversations``: ShareGPT's, ``[{"from", "value"}, ...]``;
- ``prompt``, ``instruction`` (with ``input``), ``question``: text, or for ``prompt`` a list of messages;
- ``turns``: a user's turns, of which the first is asked;
- ``text``: a text to be learned as it is, or begun.

The answer is the last message if the assistant says it, else ``completion``, ``output``, ``response`` or ``answer``.
``system`` is said before, ``category`` is what held-out figures are counted under.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ASKED = ("prompt", "instruction", "question")
ANSWERED = ("answer", "completion", "output", "response")
ROLES = {
    "system": "system", "developer": "system", "human": "user", "user": "user", "gpt": "assistant",
    "assistant": "assistant", "model": "assistant", "chatgpt": "assistant", "bot": "assistant",
}  # fmt: skip
Message = dict[str, str]


class Unusable(Exception):
    """Why a row is passed over, in words that are the same for all rows of its kind."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a row says: messages to be answered, or a text to be begun (then there are none).

    Attributes:
        answer: None where the row has none.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    answer: str | None = None
    category: str = "all"


def read_row(item: Mapping[str, Any]) -> Row:
    """A row.

    Raises:
        Unusable: nothing is asked in it, or not in text.
    """
    category = str(item.get("category", "all"))
    messages = _messages(item)
    if messages is None:
        text = item.get("text")
        if isinstance(text, str) and text.strip():
            return Row(text=text, category=category)
        raise Unusable("none of the fields messages, conversations, prompt, instruction, question, turns, text")
    answer = None
    if messages and messages[-1]["role"] == "assistant":
        answer = messages.pop()["content"]
    else:
        answer = next((found for name in ANSWERED if (found := _answer(item.get(name))) is not None), None)
    system = item.get("system")
    if isinstance(system, str) and system.strip() and not any(m["role"] == "system" for m in messages):
        messages.insert(0, {"role": "system", "content": system})
    if not any(m["role"] == "user" for m in messages):
        raise Unusable("no turn of a user")
    return Row(messages=tuple(messages), answer=answer, category=category)


def _messages(item: Mapping[str, Any]) -> list[Message] | None:
    for name, role, content in (("messages", "role", "content"), ("conversations", "from", "value")):
        if item.get(name) is not None:
            return _listed(item[name], name, role, content)
    if isinstance(item.get("prompt"), list):
        return _listed(item["prompt"], "prompt", "role", "content")
    for name in ASKED:
        asked = item.get(name)
        if isinstance(asked, str) and asked.strip():
            more = item.get("input")
            return [_user(f"{asked}\n\n{more}" if isinstance(more, str) and more.strip() else asked)]
    turns = item.get("turns")
    if isinstance(turns, list) and turns and isinstance(turns[0], str) and turns[0].strip():
        return [_user(turns[0])]
    return None


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _listed(value: Any, name: str, role: str, content: str) -> list[Message]:
    """Messages of a list; ShareGPT files hold the names of either kind."""
    if not isinstance(value, list) or not value or not all(isinstance(each, Mapping) for each in value):
        raise Unusable(f"{name} that is no list of messages")
    found = []
    for each in value:
        who = ROLES.get(str(each.get(role, each.get("role", each.get("from")))).lower())
        if who is None:
            raise Unusable("a role other than system, user and assistant")
        said = each.get(content, each.get("content", each.get("value")))
        found.append({"role": who, "content": _text(said)})
    return found


def _text(said: Any) -> str:
    """A message's text; parts of a list are joined."""
    if isinstance(said, list) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in said):
        said = "".join(str(part.get("text", "")) for part in said)
    if not isinstance(said, str):
        raise Unusable("a message that is not text")
    return said


def _answer(value: Any) -> str | None:
    """An answer as text, or as the messages of TRL's conversational rows."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        value = value[0].get("content")
    return value if isinstance(value, str) else None
