"""``/v1/completions``, ``/tokenize``, ``/detokenize`` and ``/v1/models``."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from geminate import LLM, SamplingParams
from support.serving import MODEL, stream

PATH = "/v1/completions"


def ask(client: httpx.Client, prompt: object, **fields: Any) -> dict[str, Any]:
    response = client.post(PATH, json={"model": MODEL, "prompt": prompt, "seed": 1, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def test_text_and_ids_are_the_librarys(client: httpx.Client) -> None:
    llm = LLM()
    out = llm.generate("Once upon a time", SamplingParams(seed=1, max_tokens=20))[0]
    by_text = ask(client, "Once upon a time", max_tokens=20)
    assert by_text["choices"][0]["text"] == out.text
    assert ask(client, llm.encode("Once upon a time"), max_tokens=20)["choices"] == by_text["choices"]


def test_default_length(client: httpx.Client) -> None:
    assert ask(client, "Once", ignore_eos=True)["usage"]["completion_tokens"] == 16


def test_several_prompts(client: httpx.Client) -> None:
    prompts = ["Once upon a time", "The sun", "One day"]
    body = ask(client, prompts, max_tokens=12, n=2)
    assert [c["index"] for c in body["choices"]] == list(range(6))
    for i, prompt in enumerate(prompts):
        alone = ask(client, prompt, max_tokens=12, n=2)
        assert [c["text"] for c in alone["choices"]] == [c["text"] for c in body["choices"][2 * i : 2 * i + 2]]
    ids = [client.post("/tokenize", json={"prompt": prompt}).json()["tokens"] for prompt in prompts]
    assert ask(client, ids, max_tokens=12, n=2)["choices"] == body["choices"]
    assert body["usage"]["prompt_tokens"] == sum(map(len, ids))
    chunks = stream(client, PATH, {"model": MODEL, "prompt": prompts, "seed": 1, "max_tokens": 12, "n": 2})
    for choice in body["choices"]:
        parts = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(p["text"] for p in parts) == choice["text"]
        assert parts[-1]["finish_reason"] == choice["finish_reason"]


def test_logprobs(client: httpx.Client) -> None:
    body = ask(client, "Once upon a time", max_tokens=20, logprobs=2)
    choice = body["choices"][0]
    logprobs = choice["logprobs"]
    assert {len(values) for values in logprobs.values()} == {body["usage"]["completion_tokens"]}
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert choice["text"].startswith(token, offset) or token.startswith("<")
    assert all(len(top) == 2 for top in logprobs["top_logprobs"])
    chunks = stream(
        client, PATH, {"model": MODEL, "prompt": "Once upon a time", "seed": 1, "max_tokens": 20, "logprobs": 2}
    )
    assert [t for c in chunks for x in c["choices"] for t in x["logprobs"]["text_offset"]] == logprobs["text_offset"]


def test_stop_and_usage(client: httpx.Client) -> None:
    text = ask(client, "Once upon a time", max_tokens=30)["choices"][0]["text"]
    stopped = ask(client, "Once upon a time", max_tokens=30, stop=text[9:12])["choices"][0]
    assert stopped["text"] == text[: text.index(text[9:12])] and stopped["finish_reason"] == "stop"
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 5, "stream_options": {"include_usage": True}, "seed": 1}
    chunks = stream(client, PATH, body)
    assert chunks[-1]["usage"]["completion_tokens"] == 5 and chunks[-1]["choices"] == []


def test_trace(client: httpx.Client) -> None:
    body = ask(client, "Once upon a time", max_tokens=20, trace=True, speculation=3, ignore_eos=True)
    assert sum(len(r["tokens"]) for r in body["geminate"]["rounds"]) == 20 and body["geminate"]["seed"] == 1


@pytest.mark.parametrize("text", ["Hello there", "", "héllo 🙂 ☃", "<|turn>user"])
def test_tokenize_and_back(client: httpx.Client, text: str) -> None:
    body = client.post(
        "/tokenize", json={"prompt": text, "return_token_strs": True, "add_special_tokens": False}
    ).json()
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"]) and body["max_model_len"] == 2048
    assert client.post("/detokenize", json={"tokens": body["tokens"]}).json() == {"prompt": text}
    with_bos = client.post("/tokenize", json={"prompt": text, "model": MODEL}).json()["tokens"]
    assert with_bos == [2, *body["tokens"]]
    skipped = client.post("/detokenize", json={"tokens": with_bos, "skip_special_tokens": True}).json()["prompt"]
    assert skipped == text.replace("<|turn>", "")


def test_models(client: httpx.Client) -> None:
    [card] = client.get("/v1/models").json()["data"]
    assert card["id"] == MODEL and card["max_model_len"] == 2048
    assert card["geminate"]["drafter"] and card["geminate"]["speculation_max"] == 16
    assert client.get(f"/v1/models/{MODEL}").json() == card
    missing = client.get("/v1/models/a/b")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


def test_echo(client: httpx.Client) -> None:
    """The prompt's log-probabilities are, bit for bit, those that its tokens have as a completion."""
    llm = LLM()
    assert llm.tokenizer is not None
    prompt = llm.encode("Once upon a time")
    plain = ask(client, prompt, max_tokens=60, logprobs=3, temperature=0, ignore_eos=True, trace=True)
    written = [token["id"] for r in plain["geminate"]["rounds"] for token in r["tokens"]]
    whole, logprobs = [*prompt, *written], plain["choices"][0]["logprobs"]
    for _ in range(2):  # the second time the prefix cache holds all of it
        body = ask(client, whole, max_tokens=0, echo=True, logprobs=3)
        [choice] = body["choices"]
        found = choice["logprobs"]
        assert found["token_logprobs"][0] is None is found["top_logprobs"][0]
        assert all(value is not None for value in found["token_logprobs"][1:])
        for name in ("tokens", "token_logprobs", "top_logprobs"):
            assert len(found[name]) == len(whole) and found[name][len(prompt) :] == logprobs[name]
        assert choice["finish_reason"] == "length" and choice["text"] == llm.tokenizer.decode(whole, skip_special=True)
        assert body["usage"]["completion_tokens"] == 0 and body["usage"]["prompt_tokens"] == len(whole)


def test_echo_and_a_completion(client: httpx.Client) -> None:
    text = "The sun and the river"
    fields = {"max_tokens": 8, "n": 2, "logprobs": 1, "temperature": 1.0}
    plain, body = ask(client, [text, "One day"], **fields), ask(client, [text, "One day"], echo=True, **fields)
    for index, (a, b) in enumerate(zip(plain["choices"], body["choices"], strict=True)):
        prompt = (text, "One day")[index // 2]
        assert b["text"] == prompt + a["text"] and b["finish_reason"] == a["finish_reason"]
        for name in ("tokens", "token_logprobs", "top_logprobs"):
            assert b["logprobs"][name][-len(a["logprobs"][name]) :] == a["logprobs"][name]
        for token, offset in zip(b["logprobs"]["tokens"], b["logprobs"]["text_offset"], strict=True):
            assert b["text"].startswith(token, offset) or token.startswith("<")
    chunks = stream(client, PATH, {"model": MODEL, "prompt": [text, "One day"], "seed": 1, "echo": True, **fields})
    for choice in body["choices"]:
        parts = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(p["text"] for p in parts) == choice["text"]
        assert [t for p in parts for t in p["logprobs"]["token_logprobs"]] == choice["logprobs"]["token_logprobs"]
    alone = ask(client, text, max_tokens=3, echo=True)["choices"][0]
    assert alone["text"].startswith(text) and alone["logprobs"] is None


def test_nothing_without_echo(client: httpx.Client) -> None:
    refused = client.post(PATH, json={"model": MODEL, "prompt": "Once", "max_tokens": 0})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "max_tokens"
    for speculation in ("off", 4, "ngram"):
        body = ask(client, "Once upon", max_tokens=0, echo=True, speculation=speculation, stop="Once")
        assert body["choices"][0]["text"] == "Once upon"
