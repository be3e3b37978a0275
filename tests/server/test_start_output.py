"""What a server says when it starts: text at a terminal, JSON elsewhere; settings that cannot be followed."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from geminate import LLM
from geminate.errors import ParameterError
from geminate.server import start
from geminate.server.http.logs import line_around_time, wants_text
from geminate.server.http.text_log import TextFormatter
from geminate.server.settings import Settings
from support.cli import geminate
from support.serving import Served


@pytest.fixture(scope="module")
def llm(packed_cache: Path) -> LLM:
    return LLM(threads=1)


def test_json_says_what_runs(packed_cache: Path) -> None:
    with Served("--threads", "1", "--kv-bytes", "8MiB", "--max-context", "99999") as server:
        line = server.wait_log("ready")
        assert line["url"] == server.url and line["threads"] == 1 and line["weights"] == "int8"
        assert line["drafter"].endswith("drafter") and line["kv_bytes"] == 8 << 20 and line["api_keys"] == 0
        messages = [entry["message"] for entry in server.log]
        assert "drafter: the embedded pair's own" in messages
        assert "max_context 99,999 is more than the model has: it is 2,048" in messages


def test_text_when_asked(packed_cache: Path) -> None:
    done = geminate("serve", "--log-format", "text", "--host", "203.0.113.1", "--allow-unauthenticated")
    assert done.returncode == 2 and "warning: no API keys" in done.stderr and "{" not in done.stderr


def test_sentences(llm: LLM) -> None:
    settings = Settings(kv_bytes=64 << 20)
    memory = start.kv_budget(llm, settings)
    known = start.facts(llm, settings, memory, url="http://127.0.0.1:8000", keys=0)
    said = start.sentences(known, llm, page=True)
    assert said[0].startswith("http://127.0.0.1:8000/ is the page, http://127.0.0.1:8000/v1 the base URL")
    assert said[1] == "drafter: the embedded pair's own" and "1 threads" in said[2]
    assert said[3].startswith("KV cache f16, 67 MB: up to 16 requests at once") and "off" in said[4]
    assert start.sentences(known | {"api_keys": 2}, llm, page=False)[4] == "API keys: 2"


def test_memory_that_holds_no_request_is_refused(llm: LLM) -> None:
    need = start.kv_budget(llm, Settings()).need(start.LEAST_REQUEST)
    assert start.kv_budget(llm, Settings(kv_bytes=need)).limit == need
    with pytest.raises(ParameterError, match="holds no request: one of 64 tokens takes"):
        start.kv_budget(llm, Settings(kv_bytes=need - 1))


def test_what_is_clamped_is_said(llm: LLM) -> None:
    settings = Settings()
    assert start.clamped(llm, settings, start.kv_budget(llm, settings)) == []
    memory = start.kv_budget(llm, Settings())
    memory.limit = memory.need(500)
    assert start.longest_request(llm, settings, memory) >= 500
    if memory.need(500) < memory.need(2048):
        [remark] = start.clamped(llm, settings, memory)
        assert "holds requests of at most" in remark and "longer ones are refused" in remark


def test_text_lines() -> None:
    record = logging.LogRecord("geminate.server", logging.INFO, "", 0, "request", (), None)
    record.fields = {
        "method": "POST",
        "path": "/v1/\x1b[2J",
        "status": 200,
        "seconds": 0.5,
        "tokens": 7,
        "client": None,
    }
    line = TextFormatter().format(record)
    assert line.endswith(" POST /v1/\\x1b[2J 200 in 0.5 s tokens=7")
    record = logging.LogRecord("geminate.server", logging.WARNING, "", 0, "ready", (), None)
    record.fields, record.lines = {"a": 1}, ["first", "second"]
    assert TextFormatter().format(record).splitlines()[1:] == ["         first", "         second"]
    assert "warning: ready" in TextFormatter().format(record)


def test_the_format_follows_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not wants_text("auto") and wants_text("text") and not wants_text("json")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert wants_text("auto")
    assert line_around_time("critical", "gone", "text") == ("", " critical: gone\n")
