"""Prompts that start from blocks on disk: ids and logits equal those of a run that computes everything."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geminate import LLM, SamplingParams
from geminate.errors import ParameterError
from geminate.kv import prefix_store
from geminate.kv.block_file import header, header_bytes
from geminate.session import ChatSession
from support.engines import WatchedEngine, bounded, cold
from support.fabricate import VOCAB

SIZES = ("E2B", "26B-A4B")


def params(seed: int) -> SamplingParams:
    return SamplingParams(max_tokens=16, temperature=(seed % 2) * 0.8, seed=seed, top_k=20, ignore_eos=True)


def prompts() -> list[list[int]]:
    """A long one, one that goes on, one that branches off, one that ends at a block's border, a short one."""
    rng = np.random.default_rng(4)
    long = rng.integers(3, VOCAB, 330).tolist()
    tail = rng.integers(3, VOCAB, 150).tolist()
    return [long, long + tail, long[:200] + tail, long[:256], tail[:40]]


@pytest.fixture(scope="module", params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def plain(size: str, models: dict[str, Path]) -> LLM:
    return LLM(models[size], threads=2, prefill_chunk=96)


def stored(size: str, models: dict[str, Path], path: Path, **more: object) -> LLM:
    return LLM(models[size], threads=2, prefill_chunk=96, prefix_store=path, **more)  # type: ignore[arg-type]


def watched(llm: LLM, *, memory: bool) -> WatchedEngine:
    return bounded(llm) if memory else WatchedEngine(llm, llm.new_engine(costs=llm.engine.timing.costs))


@pytest.mark.parametrize("memory", [True, False])
def test_a_store_changes_nothing_but_the_time(
    size: str, plain: LLM, models: dict[str, Path], tmp_path: Path, memory: bool
) -> None:
    wanted = [cold(plain, prompt, params(i)) for i, prompt in enumerate(prompts())]
    for start in range(3):  # an empty store, and two restarts
        with stored(size, models, tmp_path) as llm:
            assert llm.prefix_store is not None
            engine = watched(llm, memory=memory)
            for i, prompt in enumerate(prompts()):
                sequence = engine.add(prompt, params(i), (0, 3, "auto")[(i + start) % 3])
                engine.run()
                assert (sequence.output_ids, engine.digest(sequence)) == wanted[i], (start, i)
                usable = (len(prompt) - 1) // 64 * 64
                if start:
                    assert sequence.stats.reused_tokens == usable, (start, i)
                assert llm.prefix_store.writer.flush(10)
            stats = llm.prefix_store.stats()
            assert stats.damaged == stats.write_errors == stats.dropped == 0
            assert (stats.hits > 0) == (start > 0 or not memory)


def test_others_go_on_while_a_prompt_is_read_from_disk(
    size: str, plain: LLM, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = prompts()[0], prompts()[4]
    wanted = [cold(plain, first, params(1)), cold(plain, second, params(0))]
    with stored(size, models, tmp_path) as llm:
        llm.generate([first], params(1))
    read, disk = prefix_store.read_block, threading.Event()

    def slow(*args: Any) -> memoryview:
        assert disk.wait(10)
        return read(*args)

    with stored(size, models, tmp_path) as llm:
        engine = bounded(llm)
        running = engine.add(second, params(0), 0)
        monkeypatch.setattr(prefix_store, "read_block", slow)
        disk.set()
        while not running.decoding:
            engine.step()
        disk.clear()
        waiting = engine.add(first, params(1), 3)
        for _ in range(4):
            engine.step()
        assert waiting.reading and not waiting.begun and len(running.output_ids) >= 4
        disk.set()
        engine.run()
        assert waiting.stats.reused_tokens == 320
        assert (waiting.output_ids, engine.digest(waiting)) == wanted[0]
        assert (running.output_ids, engine.digest(running)) == wanted[1]


def test_a_wrong_block_would_be_noticed(size: str, plain: LLM, models: dict[str, Path], tmp_path: Path) -> None:
    """Mutation control: blocks forged with valid checksums change the logits; with a flipped byte they do not."""
    prompt = prompts()[0]
    with stored(size, models, tmp_path) as llm:
        llm.generate([prompt], params(1))
    [last] = tmp_path.glob("*/*-4.kv")
    data = last.read_bytes()
    with stored(size, models, tmp_path) as llm:
        assert llm.prefix_store is not None
        sizes = [section.nbytes for section in llm.pair.target.kv.sections]
        start = header_bytes(len(sizes))
        body = np.frombuffer(data[start:], dtype=np.float16) + np.float16(0.5)
        name = bytes.fromhex(last.name.partition("-")[0])
        last.write_bytes(header(name, 4, sizes, body.tobytes()) + body.tobytes())
        engine = watched(llm, memory=False)
        sequence = engine.add(prompt, params(1), 0)
        engine.run()
        assert sequence.stats.reused_tokens == 320
        assert engine.digest(sequence) != cold(plain, prompt, params(1))[1]
    last.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with stored(size, models, tmp_path) as llm:
        engine = watched(llm, memory=True)
        sequence = engine.add(prompt, params(1), 0)
        engine.run()
        assert sequence.stats.reused_tokens == 256
        assert (sequence.output_ids, engine.digest(sequence)) == cold(plain, prompt, params(1))


def test_scored_prompts_use_none(size: str, models: dict[str, Path], tmp_path: Path) -> None:
    from dataclasses import replace

    prompt = prompts()[0]
    with stored(size, models, tmp_path) as llm:
        llm.generate([prompt], params(0))
        engine = bounded(llm)
        request = replace(llm.request(prompt, params(0)), prompt_logprobs=0)
        sequence = engine.engine.add(request)
        events = engine.engine.run()
        assert sequence.stats.reused_tokens == 0
        assert sum(len(event.prompt_logprobs) for event in events) == len(prompt) - 1


def test_another_model_or_format_of_weights_finds_nothing(models: dict[str, Path], tmp_path: Path) -> None:
    prompt = prompts()[0]
    for weights, reused in (("int8", 0), ("int4", 0), ("int8", 320)):
        with stored("E2B", models, tmp_path, weights=weights) as llm:
            assert llm.generate([prompt], params(0))[0].stats.reused_tokens == reused, weights
    with stored("E2B", models, tmp_path, max_context=400, drafter=None) as llm:
        assert llm.generate([prompt], params(0))[0].stats.reused_tokens == 320, "what changes no bit changes no name"


def test_int8_keys_and_values_have_blocks_of_their_own(models: dict[str, Path], tmp_path: Path) -> None:
    prompt = prompts()[0]
    wanted = cold(LLM(models["E2B"], threads=2, prefill_chunk=96, kv="int8"), prompt, params(1))
    for kv, reused in (("f16", 0), ("int8", 0), ("int8", 320), ("f16", 320)):
        with stored("E2B", models, tmp_path, kv=kv) as llm:
            engine = watched(llm, memory=False)
            sequence = engine.add(prompt, params(1))
            engine.run()
            assert sequence.stats.reused_tokens == reused, kv
            assert ((sequence.output_ids, engine.digest(sequence)) == wanted) == (kv == "int8")


LONG = "The little robot walked to the river and looked at the water. " * 20


def test_sessions_go_on_where_they_were(packed_cache: Path, tmp_path: Path) -> None:
    path, store = tmp_path / "talk.json", tmp_path / "store"
    said: dict[str, list[str]] = {}
    for way in ("one session", "saved"):
        with LLM(threads=1, prefix_store=store if way == "saved" else None) as llm:
            session = llm.session(system=LONG, enable_thinking=False)
            list(session.stream("Who is it?", max_tokens=8, temperature=0))
            if way == "one session":
                list(session.stream("And then?", max_tokens=8, temperature=0))
                said[way] = [message["content"] for message in session.messages]
            else:
                session.save(path)
    assert json.loads(path.read_text())["enable_thinking"] is False
    with LLM(threads=1, prefix_store=store) as llm:
        session = ChatSession.open(llm, path)
        assert session.enable_thinking is False
        *_, last = session.stream("And then?", max_tokens=8, temperature=0)
        assert last.output is not None and last.output.stats.reused_tokens > 250
        assert [message["content"] for message in session.messages] == said["one session"]
        for odd, why in ((tmp_path / "none", "cannot read"), (store, "cannot read")):
            with pytest.raises(ParameterError, match=why):
                session.load_file(odd)
        with pytest.raises(ParameterError, match="cannot write"):
            session.save(store)
        assert len(session.messages) == 5


FULL_DISK = """
import resource, sys
from geminate import LLM
said = []
llm = LLM(threads=1, prefix_store=sys.argv[1], on_message=said.append)
llm.measure_costs()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
out = llm.generate(sys.argv[2], max_tokens=8, temperature=0)[0]
assert llm.prefix_store.writer.flush(20)
print(llm.prefix_store.stats().write_errors > 0, [text for text in said if "prefix store" in text])
print(out.token_ids)
"""


def test_a_full_disk_costs_one_line(packed_cache: Path, tmp_path: Path) -> None:
    with LLM(threads=1) as llm:
        [wanted] = llm.generate(LONG, max_tokens=8, temperature=0)
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "s"), LONG]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    errors, ids = done.stdout.splitlines()
    assert errors.startswith("True ['cannot write to the prefix store") and errors.count("answers do not need it") == 1
    assert ids == str(wanted.token_ids) and not list(tmp_path.glob("s/*/*"))


@pytest.mark.parametrize("how", ["file", "version", "foreign"])
def test_a_store_that_cannot_be_used_costs_one_line(packed_cache: Path, tmp_path: Path, how: str) -> None:
    path = tmp_path / "s"
    if how == "file":
        path.write_text("x")
    else:
        path.mkdir()
        name, text = ("geminate-prefix-store.json", '{"version": 99}') if how == "version" else ("letter.txt", "Dear")
        (path / name).write_text(text)
    said: list[str] = []
    with LLM(threads=1, prefix_store=path, on_message=said.append) as llm:
        assert llm.prefix_store is None
        assert len(llm.generate("Once", max_tokens=4)[0].token_ids) == 4
    lines = [text for text in said if "going on without it" in text]
    assert len(lines) == 1 and "\n" not in lines[0] and str(path) in lines[0]


def test_sizes_are_checked() -> None:
    for odd in (0, -1, "much", True, 1.5):
        with pytest.raises(ParameterError, match="prefix_store_bytes"):
            LLM(prefix_store_bytes=odd)  # type: ignore[arg-type]
