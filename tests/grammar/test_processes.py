"""Grammars in processes of their own: the same answers, and nothing that one of them does reaches the others."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from geminate import LLM, SamplingParams
from geminate.decoding.constraint import MaskPendingError
from geminate.errors import GrammarBusyError, GrammarError, ParameterError
from geminate.grammar import compiler as compiler_module
from geminate.grammar import followers, host
from geminate.grammar import source as source_module
from geminate.grammar import state as state_module
from geminate.grammar.compiler import GrammarCompiler, JsonObject, JsonSchema, Lark, Regex
from geminate.grammar.host import GrammarProcess
from geminate.grammar.state import GrammarState

MB = 1 << 20
SCHEMA = JsonSchema(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
        "required": ["name", "tags"],
    }
)


@pytest.fixture(scope="module")
def llm(packed_cache: Path) -> Iterator[LLM]:
    with LLM(threads=1) as made:
        yield made


@pytest.fixture
def compiler(llm: LLM) -> Iterator[GrammarCompiler]:
    made = GrammarCompiler(
        llm.tokenizer,  # type: ignore[arg-type]
        vocab_size=llm.config.vocab_size,
        eos_ids=llm.config.eos_token_ids,
    )
    made.isolate(64 * MB)
    yield made
    made.close()


def processes(compiler: GrammarCompiler) -> list[GrammarProcess]:
    assert compiler._host is not None
    return [process for process in compiler._host._processes if process.failure is None]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


def gone(pid: int) -> bool:
    until = time.monotonic() + 5
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    return not alive(pid)


def step(state: GrammarState) -> None:
    """Advance by the first token that is allowed, once that is known."""
    while not state.ready() or not known(state):
        state.wait(0.01)
    state.advance(int(np.flatnonzero(state.allowed())[0]))


def known(state: GrammarState) -> bool:
    try:
        return bool(state.allowed().any())
    except MaskPendingError:
        return False


def bomb(monkeypatch: pytest.MonkeyPatch) -> JsonSchema:
    monkeypatch.setattr(source_module, "check_multiples", lambda schema: None)
    return JsonSchema({"type": "integer", "multipleOf": 99_999_989})


def test_answers_are_those_of_the_calling_thread(llm: LLM) -> None:
    params = SamplingParams(max_tokens=60, temperature=0.8, seed=3)
    specs = (JsonObject(), SCHEMA, Regex("(a|b|c d)*x"))

    def answers(by: LLM) -> list[list[int]]:
        return [
            by.generate("Write:", params, grammar=by.grammars.compile(spec), speculation=k)[0].token_ids
            for spec in specs
            for k in ("off", 4, "auto", "ngram")
        ]

    before = answers(llm)
    with LLM(threads=1) as other:
        other.grammars.isolate(64 * MB)
        assert answers(other) == before
        assert processes(other.grammars)


def test_a_bomb_is_cut_off_and_remembered(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = bomb(monkeypatch)
    monkeypatch.setattr(host, "PATIENCE_S", 60.0)  # the machine may be busy
    with pytest.raises(ParameterError, match=r"not compiled within|memory"):
        compiler.compile(spec)
    assert not processes(compiler)
    began = time.monotonic()
    with pytest.raises(ParameterError, match="failed a short while ago"):
        compiler.compile(spec)
    assert time.monotonic() - began < 0.1
    compiler.compile(SCHEMA)


def test_memory_is_bounded(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "COMPILE_SECONDS", 60.0)
    monkeypatch.setattr(host, "PATIENCE_S", 60.0)
    with pytest.raises(ParameterError, match="more than 32 MB of memory"):
        compiler.compile(bomb(monkeypatch))


def test_a_client_that_leaves_takes_its_compilation_with_it(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "COMPILE_SECONDS", 60.0)
    monkeypatch.setattr(host, "PATIENCE_S", 60.0)
    assert compiler._host is not None
    compiler._host.memory = compiler._host.each = 1 << 40
    left = threading.Event()
    threading.Timer(0.3, left.set).start()
    began = time.monotonic()
    with pytest.raises(GrammarBusyError, match="client has gone"):
        compiler.compile(bomb(monkeypatch), cancelled=left)
    assert time.monotonic() - began < 2
    assert not processes(compiler)


def test_a_full_house_is_said(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "PATIENCE_S", 0.3)
    assert compiler._host is not None
    for _ in range(host.COMPILING):
        compiler._host._slots.acquire()
    with pytest.raises(GrammarBusyError, match="other grammars"):
        compiler.compile(SCHEMA)
    for _ in range(host.COMPILING):
        compiler._host._slots.release()
    compiler.compile(SCHEMA)


def test_kept_grammars_share_the_memory(compiler: GrammarCompiler) -> None:
    """Many large grammars, one after the other: the oldest give way, the sum stays within the bound."""
    rules = "\n".join(f"r{i}: r{i + 1} | r{i + 1} r{i + 1}" for i in range(200)) + '\nr200: "a"'
    for number in range(14):
        state = compiler.compile(Lark(f"// {number}\nstart: r0\n{rules}")).start()
        for _ in range(3):
            step(state)
        assert compiler.memory <= 64 * MB
        state.close()


def test_a_process_that_dies_ends_its_completions_alone(compiler: GrammarCompiler) -> None:
    first, second = compiler.compile(SCHEMA), compiler.compile(Regex("[ab]+"))
    one, two = first.start(), second.start()
    one.allowed()
    two.allowed()
    victim = next(p for p in processes(compiler) if p is first.follower.args[0])  # type: ignore[attr-defined]
    os.kill(victim._kill.pid, signal.SIGKILL)
    token = int(np.flatnonzero(one.allowed())[0])
    one.advance(token)
    with pytest.raises(GrammarError, match="cannot be followed further"):
        one.allowed()
    two.advance(int(np.flatnonzero(two.allowed())[0]))
    assert two.allowed().any()
    assert not first.alive() and second.alive()
    again = compiler.compile(SCHEMA)
    assert again is not first and again.start().allowed().any()


def test_the_forking_process_may_die(compiler: GrammarCompiler) -> None:
    compiler.compile(SCHEMA)
    assert compiler._host is not None and compiler._host._process is not None
    children = [process._kill.pid for process in processes(compiler)]
    compiler._host._process.kill()
    assert all(gone(pid) for pid in children)
    for _ in range(2):  # one attempt may find out
        try:
            compiler.compile(Regex("[a-z]+"))
            break
        except Exception as error:
            assert "try again" in str(error)
    else:
        pytest.fail("it was not started again")


def test_ended_processes_leave_no_descriptors(compiler: GrammarCompiler) -> None:
    def cycle() -> None:
        grammar = compiler.compile(SCHEMA)
        [process] = processes(compiler)
        os.kill(process._kill.pid, signal.SIGKILL)
        assert gone(process._kill.pid)
        state = grammar.start()
        with pytest.raises(GrammarError):
            step(state)

    cycle()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        cycle()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_processes_that_grow_at_once_do_not_wait_for_each_other(compiler: GrammarCompiler) -> None:
    """Each growth may end other grammars' processes, whose answers other threads are waiting for."""
    assert compiler._host is not None
    compiler._host.memory = 24 * MB
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(8):
                schema = {"anyOf": [{"const": f"{number}-{i}-{j}"} for j in range(300)]}
                with contextlib.suppress(GrammarError):  # it gave way
                    step(compiler.compile(JsonSchema(schema)).start())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed and not any(thread.is_alive() for thread in threads)


def test_close_leaves_nothing(compiler: GrammarCompiler) -> None:
    compiler.compile(SCHEMA)
    assert compiler._host is not None and compiler._host._process is not None
    pids = [compiler._host._process.pid, *(process._kill.pid for process in processes(compiler))]
    compiler.close()
    assert all(gone(pid) for pid in pids)


def test_a_slow_mask_is_waited_for_by_nobody_else(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grammar whose masks take a quarter of a second beside a completion without one, in one engine."""
    params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
    alone = llm.generate("Once upon a time", params)[0].token_ids
    real = followers.RemoteFollower.receive

    def late(self: followers.RemoteFollower, timeout: float) -> object:
        if not self._answers and self._waited() < 0.25:
            time.sleep(min(timeout, 0.25))
            return None
        return real(self, timeout)

    with LLM(threads=1) as other:
        other.grammars.isolate(64 * MB)
        grammar = other.grammars.compile(SCHEMA)
        few = SamplingParams(max_tokens=6, temperature=0)
        expected = other.generate("Write:", few, grammar=grammar)[0].token_ids
        monkeypatch.setattr(followers.RemoteFollower, "receive", late)
        slow = other.stream("Write:", few, grammar=grammar)
        next(iter(slow))
        began = time.monotonic()
        assert other.generate("Once upon a time", params)[0].token_ids == alone
        assert time.monotonic() - began < 0.25
        assert [t for d in slow for t in d.token_ids] == expected[1:] or slow.output.token_ids == expected


def test_a_budget_ends_a_completion(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "BUDGET_S", 0.0)
    monkeypatch.setattr(followers, "BUDGET_PER_MASK_S", 0.0)
    state = compiler.compile(SCHEMA).start()
    with pytest.raises(GrammarError, match="processor time"):
        for _ in range(100):
            step(state)


def test_what_fails_soon_is_remembered(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grammar that compiles and cannot be followed is refused the next time."""
    monkeypatch.setitem(compiler_module.LIMITS, "max_items_in_row", 40)
    monkeypatch.setattr(state_module, "_SOON", 100)
    with LLM(threads=1) as other:
        other.grammars.isolate(64 * MB)
        spec = Lark('start: "x" s\ns: s s | "x"')
        grammar = other.grammars.compile(spec)
        params = SamplingParams(max_tokens=60, temperature=0, logit_bias={})
        with pytest.raises(GrammarError, match="items"):
            other.generate("x", params, grammar=grammar)
        with pytest.raises(ParameterError, match="a short while ago"):
            other.grammars.compile(spec)
