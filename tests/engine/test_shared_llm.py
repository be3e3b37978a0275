"""One `LLM` for many: threads, event loops, several open streams, and what is left when they go away."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from geminate import LLM, GeminateError, SamplingParams
from support import shared_llm

PARAMS = SamplingParams(max_tokens=40, temperature=0.0)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(threads=2)


def test_eight_threads_four_hundred_answers(llm: LLM) -> None:
    assert shared_llm.differing(llm, 400) == []
    gc.collect()
    llm.generate("Hi", PARAMS)
    assert llm.service.idle and not llm.engine.running and not llm.engine.waiting


def test_the_same_in_development_mode_with_one_thread() -> None:
    """A subprocess: PYTHONDEVMODE counts from the start. It warns of threads and loops that are left open."""
    script = Path(shared_llm.__file__)
    run = subprocess.run(
        [sys.executable, "-W", "error", str(script), "1", "120"],
        env={**os.environ, "PYTHONDEVMODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Exception ignored" not in run.stderr, run.stderr


def test_mutation_control_without_the_one_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that step one engine at the same time do what the test above must notice."""
    llm = LLM(threads=1)

    def wait(ready) -> None:  # type: ignore[no-untyped-def]
        while not ready():
            llm.service._round()

    monkeypatch.setattr(llm.service, "wait", wait)
    failed = False
    for _ in range(5):
        try:
            failed = failed or bool(shared_llm.differing(llm, 60))
        except Exception:
            failed = True
    assert failed


def test_several_open_streams(llm: LLM) -> None:
    """Streams read in turns, with whole answers in between, give what each gives by itself."""
    want = {text: llm.generate(text, PARAMS)[0].text for text in shared_llm.PROMPTS}
    streams = {text: llm.stream(text, PARAMS) for text in want}
    got = dict.fromkeys(want, "")
    while streams:
        for text, stream in list(streams.items()):
            delta = next(stream, None)
            if delta is None:
                del streams[text]
                continue
            got[text] += delta.text
            assert llm.generate("Hello", SamplingParams(max_tokens=3, temperature=0))[0].token_ids
    assert got == want


def test_more_streams_than_run_at_once(llm: LLM) -> None:
    streams = [llm.stream("Once upon a time", PARAMS) for _ in range(20)]
    for stream in streams:
        next(stream)
    texts = {"".join(delta.text for delta in stream) for stream in streams}
    assert len(texts) == 1
    assert llm.service.idle


def test_an_answer_from_inside_a_callback(llm: LLM) -> None:
    inner: list[str] = []

    def on_logits(position: int, logits: object) -> None:
        if not inner:
            inner.append(llm.generate("The capital of", PARAMS)[0].text)

    plain = llm.generate("Once upon a time", PARAMS)[0].text
    assert llm.generate("Once upon a time", PARAMS, on_logits=on_logits)[0].text == plain
    assert inner == [llm.generate("The capital of", PARAMS)[0].text]


def test_a_failing_callback_ends_its_own_answer_only(llm: LLM) -> None:
    other = llm.stream("The capital of", PARAMS)
    begun = next(other).text

    def on_logits(position: int, logits: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        llm.generate("Once upon a time", PARAMS, on_logits=on_logits)
    rest = begun + "".join(delta.text for delta in other)
    assert rest == llm.generate("The capital of", PARAMS)[0].text and llm.service.idle


def test_closing() -> None:
    with LLM(threads=1) as llm:
        stream = llm.stream("Once upon a time", PARAMS)
        next(stream)
        unread = llm.stream("The capital of", SamplingParams(max_tokens=500, ignore_eos=True))
        next(unread)
    with pytest.raises(GeminateError, match="closed"):
        list(unread)
    with pytest.raises(GeminateError, match="closed"):
        llm.generate("Hi")
    assert not llm.engine.running
    llm.close()


def test_closing_while_another_thread_waits() -> None:
    llm = LLM(threads=1)
    caught: list[BaseException] = []
    begun = threading.Event()

    def work() -> None:
        try:
            for _ in llm.stream("Once upon a time", SamplingParams(max_tokens=100_000, ignore_eos=True)):
                begun.set()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    llm.close()
    thread.join(60)
    assert not thread.is_alive() and isinstance(caught[0], GeminateError) and "closed" in str(caught[0])
