"""Metrics count what happened, logs say it without the prompts."""

from __future__ import annotations

import json

import pytest

from support.serving import MODEL, Served, chat_body, stream

CHAT = "/v1/chat/completions"


def grown(server: Served, before: dict[str, float], name: str) -> float:
    after = server.metrics()
    return sum(v - before.get(k, 0) for k, v in after.items() if k.split("{")[0] == name)


def test_names_and_types(served: Served) -> None:
    with served.client() as client:
        client.post(CHAT, json=chat_body(max_tokens=3))
        text = client.get("/metrics").text
    types = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    for name, kind in {
        "time_to_first_token_seconds": "histogram",
        "inter_token_latency_seconds": "histogram",
        "e2e_request_latency_seconds": "histogram",
        "num_requests_running": "gauge",
        "num_requests_waiting": "gauge",
        "kv_cache_usage_perc": "gauge",
        "prefix_cache_bytes": "gauge",
        "prompt_tokens_total": "counter",
        "generation_tokens_total": "counter",
        "prefix_cache_queries_total": "counter",
        "prefix_cache_hits_total": "counter",
        "spec_decode_num_drafts_total": "counter",
        "spec_decode_num_draft_tokens_total": "counter",
        "spec_decode_num_accepted_tokens_total": "counter",
        "spec_decode_num_accepted_tokens_per_pos_total": "counter",
        "spec_decode_rounds_total": "counter",
        "spec_decode_undrafted_rounds_total": "counter",
        "spec_decode_recent_accepted_per_draft": "gauge",
        "spec_decode_drafter_outdated": "gauge",
        "request_success_total": "counter",
    }.items():
        assert types.get("geminate:" + name) == kind, name
    assert f'geminate:prompt_tokens_total{{model_name="{MODEL}"}}' in text


def test_counts_are_the_answers(served: Served) -> None:
    before = served.metrics()
    with served.client() as client:
        fields = {"max_tokens": 40, "ignore_eos": True, "speculation": 4, "seed": 1, "n": 2}
        body = client.post(CHAT, json=chat_body(**fields)).json()
        chunks = stream(client, CHAT, chat_body(stream_options={"include_usage": True}, **fields))
    usage, timings = body["usage"], body["timings"]
    both = [timings, chunks[-1]["timings"]]
    expected = {
        "prompt_tokens_total": 2 * usage["prompt_tokens"],
        "generation_tokens_total": 2 * usage["completion_tokens"],
        "spec_decode_num_draft_tokens_total": sum(t["draft_n"] for t in both),
        "spec_decode_num_accepted_tokens_total": sum(t["draft_n_accepted"] for t in both),
        "spec_decode_num_accepted_tokens_per_pos_total": sum(t["draft_n_accepted"] for t in both),
        "spec_decode_rounds_total": sum(n for t in both for n in t["draft_lengths"].values()),
        "spec_decode_num_drafts_total": sum(n for t in both for k, n in t["draft_lengths"].items() if k != "0"),
        "spec_decode_undrafted_rounds_total": sum(n for t in both for n in t["undrafted"].values()),
        "time_to_first_token_seconds_count": 4,
        "inter_token_latency_seconds_count": 2 * usage["completion_tokens"] - 4,
        "e2e_request_latency_seconds_count": 2,
        "request_success_total": 4,
    }
    for name, value in expected.items():
        if name == "inter_token_latency_seconds_count":  # a first batch may hold several tokens
            assert 0 < grown(served, before, "geminate:" + name) <= value
        else:
            assert grown(served, before, "geminate:" + name) == value, name
    position = 'spec_decode_num_accepted_tokens_per_pos_total{model_name="' + MODEL + '",position="0"}'
    assert served.metrics()[f"geminate:{position}".replace(f'model_name="{MODEL}"', "")] > 0


def test_outcomes_by_status(served: Served) -> None:
    before = served.metrics()
    with served.client() as client:
        client.post(CHAT, json={})
        client.get("/nowhere")
    for labels in ('path="/v1/chat/completions",status="400"', 'path="other",status="404"'):
        name = f"geminate:http_requests_total{{{labels}}}"
        assert served.metrics()[name] - before.get(name, 0) == 1


def test_log_has_ids_and_no_prompts(served: Served) -> None:
    with served.client() as client:
        body = chat_body("a secret word: xylophone", max_tokens=3, ignore_eos=True, user="someone")
        client.post(CHAT, json=body, headers={"X-Request-Id": "log-test-1"})
        client.post(CHAT, json={"model": "xylophone" * 1000}, headers={"X-Request-Id": "log-test-2"})
    line = served.wait_log("request", request_id="log-test-1")
    assert line["status"] == 200 and line["completion_tokens"] == 3 and line["user"] == "someone"
    assert line["finish_reasons"] == ["length"] and line["path"] == CHAT and line["seconds"] > 0
    assert served.wait_log("request", request_id="log-test-2")["status"] == 400
    assert "xylophone" not in "".join(served.raw)
    assert all(json.loads(raw) for raw in served.raw)


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health(served: Served, path: str) -> None:
    with served.client() as client:
        assert client.get(path).status_code == 200
