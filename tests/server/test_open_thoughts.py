"""A template that opens the thought itself, and prompts that end with a message to be continued."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from geminate.loading.locate import embedded_pair
from support.serving import Served, chat_body, stream

CHAT = "/v1/chat/completions"
CLOSED = "101"  # <channel|>
OPENING = (
    "{%- if add_generation_prompt -%}<|turn>model\n{% if enable_thinking %}<|channel>thought\n{% endif %}{%- endif -%}"
)


@pytest.fixture(scope="module")
def served(packed_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose template opens the thought when thinking is on."""
    model = tmp_path_factory.mktemp("opening") / "model"
    shutil.copytree(embedded_pair()[0], model)
    template = model / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    at = text.index("{%- if add_generation_prompt -%}")
    template.write_text(text[:at] + OPENING, encoding="utf-8")
    with Served(str(model), "--drafter", "none", "--model-id", "geminate-embedded") as server:
        yield server.ready()


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as made:
        yield made


def ask(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post(CHAT, json={**chat_body("Hi"), "temperature": 0, **fields})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


THINKING = {"chat_template_kwargs": {"enable_thinking": True}}


def test_the_thought_is_no_content(client: httpx.Client) -> None:
    plain = ask(client, max_tokens=8, ignore_eos=True)
    assert "reasoning_content" not in plain["choices"][0]["message"]
    body = ask(client, max_tokens=8, ignore_eos=True, **THINKING)
    message = body["choices"][0]["message"]
    assert message["reasoning_content"] and not message["content"]
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 8
    chunks = stream(
        client, CHAT, {**chat_body("Hi"), "temperature": 0, "max_tokens": 8, "ignore_eos": True, **THINKING}
    )
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(d.get("reasoning_content", "") for d in deltas) == message["reasoning_content"]
    assert not "".join(d.get("content") or "" for d in deltas)


def test_stop_strings_do_not_see_it(client: httpx.Client) -> None:
    thought = ask(client, max_tokens=8, ignore_eos=True, **THINKING)["choices"][0]["message"]["reasoning_content"]
    again = ask(client, max_tokens=8, ignore_eos=True, stop=[thought.strip()[:3]], **THINKING)
    assert again["choices"][0]["message"]["reasoning_content"] == thought


@pytest.mark.parametrize("speculation", ["off", "ngram"])
def test_a_format_holds_behind_the_thought(client: httpx.Client, speculation: str) -> None:
    fields = {"response_format": {"type": "regex", "regex": "Sunny[.]"}, "max_tokens": 40, "speculation": speculation}
    body = ask(client, logit_bias={CLOSED: 100}, **fields, **THINKING)
    assert body["choices"][0]["message"]["content"] == "Sunny."
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 1
    free = ask(client, logit_bias={CLOSED: -100}, **{**fields, "max_tokens": 6}, **THINKING)
    assert free["choices"][0]["message"]["reasoning_content"] and not free["choices"][0]["message"]["content"]


def test_a_final_message_is_continued(client: httpx.Client) -> None:
    said = [{"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": "Once upon a time, "}]
    tokenized = ask(client, messages=said, max_tokens=6, continue_final_message=True)
    new = ask(client, messages=said, max_tokens=6)
    assert new["usage"]["prompt_tokens"] > tokenized["usage"]["prompt_tokens"]
    explicit = ask(client, messages=said, max_tokens=6, continue_final_message=True, add_generation_prompt=False)
    assert explicit["choices"][0]["message"] == tokenized["choices"][0]["message"]
    assert ask(client, messages=said, max_tokens=6, add_generation_prompt=True)["choices"] == new["choices"]


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"continue_final_message": True}, "needs an assistant message at the end"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "exclude each other"),
    ],
)
def test_contradictions(client: httpx.Client, fields: dict[str, Any], words: str) -> None:
    answer = client.post(CHAT, json={**chat_body("Hi"), **fields})
    assert answer.status_code == 400 and words in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "continue_final_message"
