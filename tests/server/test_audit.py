"""The server's audit log: a line for every request of every API, whatever becomes of it, that can be replayed."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from geminate import LLM
from geminate.audit.options import AuditOptions
from geminate.audit.verify import verify
from geminate.server.audit import ServerAudit
from geminate.server.settings import Settings
from support.audit_logs import records_of
from support.cli import geminate, refused
from support.serving import MODEL, PATIENCE_S, Served, chat_body, stream

CHAT = "/v1/chat/completions"
KEY = "0123456789abcdef-alice"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {
    "type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}}}  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.log"


@pytest.fixture(scope="module")
def served(packed_cache: Path, log: Path) -> Iterator[Served]:
    """A server with a key that has a name, which records ids."""
    keys = log.with_name("keys")
    keys.write_text(f"# all of them\nanother-key-0123456789\n{KEY}  # Alice B.\n")
    keys.chmod(0o600)
    flags = ("--audit-log", str(log), "--audit-content", "ids", "--api-key-file", str(keys))
    with Served(*flags, key=KEY) as server:
        yield server.ready()


def requests_of(log: Path) -> list[dict[str, Any]]:
    return [record for record in records_of(log) if record["type"] == "request"]


def added(log: Path, before: int, count: int = 1) -> list[dict[str, Any]]:
    """The requests' records behind the first ``before``, when there are so many."""
    end = time.monotonic() + PATIENCE_S
    while len(found := requests_of(log)) < before + count:
        assert time.monotonic() < end, found
        time.sleep(0.01)
    return found[before:]


Asked = tuple[list[tuple[str, dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def answered(served: Served, log: Path) -> Asked:
    """Requests of all kinds, and their records."""
    text, few = "Tell me a story.", {"max_tokens": 8, "seed": 5}
    turn = {"messages": [{"role": "user", "content": text}]}
    asked: list[tuple[str, dict[str, Any]]] = [
        (CHAT, chat_body(text, temperature=0.8, **few)),
        (CHAT, chat_body(text, stream=True, n=2, temperature=1.1, **few)),
        ("/v1/completions", {"model": MODEL, "prompt": ["Once", "The dog"], "n": 2, "temperature": 0.7, **few}),
        ("/v1/completions", {"model": MODEL, "prompt": "Once", "stream": True, "stop": [" the"], **few}),
        ("/v1/responses", {"model": MODEL, "input": text, "max_output_tokens": 8, "temperature": 0.9}),
        ("/v1/responses", {"model": MODEL, "input": text, "max_output_tokens": 8, "stream": True}),
        ("/v1/messages", {"model": MODEL, "max_tokens": 8, "temperature": 1.0, **turn}),
        ("/v1/messages", {"model": MODEL, "max_tokens": 8, "stream": True, **turn}),
        ("/api/chat", {"model": MODEL, "options": {"num_predict": 8, "seed": 3}, **turn}),
        ("/api/generate", {"model": MODEL, "prompt": text, "stream": False, "options": {"num_predict": 8}}),
        ("/api/generate", {"model": MODEL, "prompt": text, "raw": True, "options": {"num_predict": 8}}),
        (CHAT, chat_body("A number.", response_format={"type": "json_schema", "json_schema": {
            "name": "n", "schema": SCHEMA}}, temperature=0.9, **{**few, "max_tokens": 30})),
        (CHAT, chat_body("Look.", tools=[TOOL], tool_choice="required", **{**few, "max_tokens": 40})),
        (CHAT, chat_body(text, repetition_penalty=1.3, frequency_penalty=0.5, logit_bias={"42": -3.5}, top_p=0.8,
                         temperature=1.2, speculation=4, **few)),
    ]  # fmt: skip
    before = len(requests_of(log))
    with served.client() as client:
        for path, body in asked:
            answer = client.post(path, json=body)
            assert answer.status_code == 200, answer.text
    return asked, added(log, before, len(asked))


@pytest.fixture(scope="module")
def troubled(served: Served, log: Path, answered: Asked) -> list[dict[str, Any]]:
    """Records of a cancelled and three refused requests, and of one that was answered behind those without a line."""
    before = len(requests_of(log))
    with served.client() as client:
        body = chat_body(max_tokens=2000, ignore_eos=True, seed=1, temperature=1.0, stream=True)
        with client.stream("POST", CHAT, json=body) as response:
            next(response.iter_lines())
        added(log, before)
        client.post(CHAT, json=chat_body(temperature=-1))
        client.post(CHAT, content=b"{")
        client.post(CHAT, json={**chat_body(), "model": "other"})
        # What generates nothing has no line, nor has a stranger.
        client.get("/v1/models")
        client.post("/tokenize", json={"model": MODEL, "prompt": "x"})
        assert httpx.post(f"{served.url}{CHAT}", json=chat_body()).status_code == 401
        client.post(CHAT, json=chat_body(max_tokens=1))
    return added(log, before, 5)


def test_every_api_has_its_line(answered: Asked) -> None:
    asked, found = answered
    assert [record["route"] for record in found] == [path for path, _ in asked]
    for (_, body), record in zip(asked, found, strict=True):
        prompts = body["prompt"] if isinstance(body.get("prompt"), list) else [0]
        assert len(record["runs"]) == len(prompts) and record["status"] == 200
        for run in record["runs"]:
            assert len(run["choices"]) == body.get("n", 1) and run["prompt"]["tokens"] == len(run["prompt"]["ids"])
            assert all(c["finish"] in ("stop", "length") and c["tokens"] == len(c["ids"]) for c in run["choices"])
            assert run["sampling"]["seed"] == body.get("seed", run["sampling"]["seed"])
        assert record["client"] == hashlib.sha256(KEY.encode()).hexdigest()[:16] and record["key"] == "Alice B."
        assert record["weights"] == found[0]["weights"] and record["program"] == found[0]["program"]
    assert "source" in found[-3]["runs"][0]["grammar"] and found[-2]["runs"][0]["reply"] == "tools"
    assert found[-1]["runs"][0]["sampling"]["logit_bias"] == [[42, -3.5]]


def test_keys_without_a_name_have_none(served: Served, log: Path) -> None:
    before = len(requests_of(log))
    headers = {"Authorization": "Bearer another-key-0123456789"}
    assert httpx.post(f"{served.url}{CHAT}", json=chat_body(max_tokens=1), headers=headers).status_code == 200
    [record] = added(log, before)
    assert record["key"] is None and record["client"] == hashlib.sha256(b"another-key-0123456789").hexdigest()[:16]
    assert KEY not in log.read_text() and "another-key" not in log.read_text()


def test_the_ids_are_the_answer(client: httpx.Client, log: Path) -> None:
    before = len(requests_of(log))
    body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0.9, "trace": True}
    answer = client.post("/v1/completions", json=body)
    [record] = added(log, before)
    [run] = record["runs"]
    traced = [token["id"] for part in answer.json()["geminate"]["rounds"] for token in part["tokens"]]
    assert run["choices"][0]["ids"] == traced and run["sampling"]["seed"] == answer.json()["geminate"]["seed"]
    ids = client.post("/tokenize", json={"model": MODEL, "prompt": "Once upon a time"}).json()["tokens"]
    assert run["prompt"]["ids"] == ids
    assert record["request"] == hashlib.sha256(answer.request.content).hexdigest()
    assert record["id"] == answer.headers["x-request-id"] and "body" not in record


def test_cancelled_and_refused_requests_have_lines(troubled: list[dict[str, Any]], served: Served) -> None:
    cancelled, *refusals, answer = troubled
    [choice] = cancelled["runs"][0]["choices"]
    assert choice["finish"] == "abort" and len(choice["ids"]) == choice["tokens"] < 2000
    assert [(r["status"], r["runs"], r["error"]) for r in refusals] == [
        (400, [], "temperature"), (400, [], "invalid_request_error"), (404, [], "model_not_found")
    ]  # fmt: skip
    assert answer["status"] == 200
    served.quiet()


@pytest.mark.parametrize(
    "options", [("-k", "off", "--threads", "2"), ("-k", "5", "--threads", "1", "--drafter", "embedded"), ()]
)
def test_the_log_is_intact_and_replays(
    options: tuple[str, ...], served: Served, log: Path, answered: Asked, troubled: list[dict[str, Any]]
) -> None:
    """With other drafts and threads; cancelled answers as far as they went."""
    assert verify(log).intact
    done = geminate("audit", "replay", str(log), "--json", *options)
    assert done.returncode == 0, done.stderr
    tally = json.loads(done.stdout)
    assert tally["intact"] and tally["differ"] == 0 and tally["same"] >= len(answered[1]) + 2
    assert tally["skipped"] == {"the request was refused before anything was generated": 3}
    metrics = served.metrics()
    assert metrics["geminate:audit_log_lines_total"] >= tally["same"] and metrics["geminate:audit_log_failing"] == 0


def test_prompts_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    with Served("--audit-log", str(log)) as server:
        server.ready()
        with server.client() as client:
            body = chat_body("Secret words: zebra.", max_tokens=10, temperature=0.8)
            answer = client.post(CHAT, json=body).json()
            ids = client.post("/tokenize", json={"model": MODEL, "messages": body["messages"]}).json()["tokens"]
        assert server.stop() == 0
        closed = server.wait_log("audit log closed")
    text = log.read_text()
    said = answer["choices"][0]["message"]["content"]
    assert "zebra" not in text and said not in text and json.dumps(ids[-5:]).replace(" ", "") not in text
    assert [record["type"] for record in records_of(log)] == ["start", "request", "stop"]
    report = verify(log)
    assert report.head == (closed["seq"], closed["head"]) == (2, records_of(log)[-1]["hash"])
    # Whoever has the prompts can still replay it.
    done = geminate("audit", "replay", str(log))
    assert done.returncode == 2 and "could be replayed: its prompt is not in the log" in done.stderr
    kept = tmp_path / "requests.jsonl"
    kept.write_text(json.dumps({"messages": body["messages"]}) + "\n")
    done = geminate("audit", "replay", str(log), "--requests", str(kept), "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["same"] == 1, done.stderr


def test_a_killed_server_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    flags = ("--audit-log", str(log), "--audit-content", "requests", "--audit-fsync", "always")
    with Served(*flags) as server, server.ready().client() as client:
        sent = client.post(CHAT, json=chat_body("Hellö", max_tokens=5)).request.content
        added(log, 0)
        refused("serve", "--port", "0", "--audit-log", str(log), says="another program writes to the audit log")
        server.process.send_signal(signal.SIGKILL)
        server.wait_end()
    with log.open("ab") as file:
        file.write(b'{"client":"half a li')
    with Served(*flags) as server:
        server.ready()
        assert server.stop() == 0
    report = verify(log)
    assert report.intact and [record["why"] for _, record in report.gaps] == ["torn"]
    [line] = requests_of_valid(log)
    assert line["body"].encode() == sent and line["request"] == hashlib.sha256(sent).hexdigest()


def requests_of_valid(log: Path) -> list[dict[str, Any]]:
    lines = [line for line in log.read_bytes().splitlines() if line.endswith(b"}")]
    return [record for record in map(json.loads, lines) if record["type"] == "request"]


FULL_DISK = """
import errno, os
real = os.write
def write(fd, data):
    if os.path.exists({flag!r}) and os.readlink("/proc/self/fd/%d" % fd) == {log!r}:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return real(fd, data)
os.write = write
"""


@pytest.mark.parametrize("policy", ["refuse", "serve"])
def test_a_full_disk(policy: str, tmp_path: Path) -> None:
    log, flag = tmp_path / "audit.log", tmp_path / "full"
    prelude = FULL_DISK.format(flag=str(flag), log=str(log))
    with Served("--audit-log", str(log), "--audit-failure", policy, prelude=prelude) as server:
        with server.ready().client() as client:
            assert client.post(CHAT, json=chat_body(max_tokens=2)).status_code == 200
            added(log, 0)
            flag.touch()
            assert client.post(CHAT, json=chat_body(max_tokens=2)).status_code == 200  # its line waits
            server.until(lambda metrics: metrics["geminate:audit_log_failing"] == 1)
            during = client.post(CHAT, json=chat_body(max_tokens=2))
            ready = client.get("/health/ready").status_code
            if policy == "refuse":
                assert during.status_code == ready == 503 and during.json()["error"]["code"] == "audit_log_failed"
                assert "No space left" in during.json()["error"]["message"] and "Retry-After" in during.headers
                assert str(tmp_path) not in during.text
            else:
                assert during.status_code == ready == 200
            flag.unlink()
            server.until(lambda metrics: metrics["geminate:audit_log_failing"] == 0)
            assert client.post(CHAT, json=chat_body(max_tokens=2)).status_code == 200
        assert server.stop() == 0
    report = verify(log)
    assert report.intact and not report.gaps and report.requests == 4
    assert [record["status"] for record in requests_of(log)] == [200, 200, 503 if policy == "refuse" else 200, 200]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--audit-log", "/nowhere/audit.log"), "cannot open the audit log /nowhere/audit.log: No such file"),
        (("--audit-log", "/dev/null"), "no regular file"),
        (("--audit-log", __file__), "is no audit log; name another file"),
        (("--audit-log", "x", "--audit-content", "all"), "--audit-content"),
        (("--audit-log", "x", "--audit-file-bytes", "9"), "--audit-file-bytes"),
    ],
)
def test_bad_flags(flags: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused("serve", "--port", "0", *flags, says=says)


def test_streams_of_one_server_share_the_chain(client: httpx.Client, log: Path) -> None:
    before = len(requests_of(log))
    for _ in range(3):
        stream(client, CHAT, chat_body(max_tokens=3))
    assert len(added(log, before, 3)) == 3 and verify(log).intact


def test_several_models_have_their_facts(tmp_path: Path, packed_cache: Path) -> None:
    audit = ServerAudit(AuditOptions(audit_log=str(tmp_path / "audit.log")))
    with LLM(threads=1) as one, LLM(threads=1, kv="int8") as other:
        audit.begin("one", one, Settings(), by="a test")
        audit.begin("other", other, Settings(kv="int8"), by="a test")
    audit.close()
    first, second, stop = records_of(tmp_path / "audit.log")
    assert (first["name"], first["why"], first["facts"]["kv"]) == ("one", "new", "f16")
    assert (second["name"], second["why"], second["facts"]["kv"]) == ("other", "model", "int8")
    assert first["weights"] == second["weights"] and first["program"] != second["program"] and stop["unfinished"] == 0
