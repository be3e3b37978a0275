"""Replicas that compute the same bits are admitted, others are refused with the reason; cores are given to one only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from geminate import LLM
from geminate.errors import ContextFullError, ContextLengthError, EngineFailedError, QueueFullError
from geminate.fleet import cores
from geminate.fleet.messages import Failure
from geminate.fleet.proof import Proof, Register, fixed_run
from geminate.kv.budget import KVBudget
from geminate.kv.prefix_tree import block_digests
from geminate.kv.store import BLOCK
from geminate.server.gauges import GAUGES, gauge_aliases
from geminate.server.state import fingerprint
from support.engines import bounded


def test_the_fixed_run_tells_arithmetics_and_weights_apart(models: dict[str, Path]) -> None:
    runs = {name: fixed_run(LLM(threads=threads, weights=weights)) for name, threads, weights in (
        ("here", 1, "auto"), ("two threads", 2, "auto"), ("other format", 1, "bf16"))}  # fmt: skip
    assert runs["here"] == runs["two threads"] != runs["other format"]
    assert len(runs["here"]) == 64
    other = LLM(models["E2B"], threads=1)
    assert fixed_run(other) not in runs.values()
    assert fingerprint(other) != fingerprint(LLM(threads=1)) == fingerprint(LLM(threads=2))


def test_the_first_replica_sets_the_proof() -> None:
    register = Register()
    assert register.claim("m", Proof(weights="w", run="a" * 64)) is None
    assert register.claim("m", Proof(weights="w", run="a" * 64)) is None
    why = register.claim("m", Proof(weights="v", run="a" * 64))  # the run does not read all of a table
    assert why is not None and "other weights" in why
    why = register.claim("m", Proof(weights="w", run="b" * 64))
    assert why is not None and "version or arithmetic" in why and "bbbbbbbbbbbb" in why and "aaaaaaaaaaaa" in why
    why = register.claim("m", Proof(weights="v", run="b" * 64))
    assert why is not None and "other weights" in why
    assert register.claim("m2", Proof(weights="v", run="b" * 64)) is None


@pytest.mark.parametrize("error", [QueueFullError("full"), ContextLengthError("long"), EngineFailedError("broken")])
def test_errors_cross_as_plain_data(error: Exception) -> None:
    back = Failure.of(error).error()
    assert type(back) is type(error) and str(back) == str(error)


def test_other_errors_do_not_cross() -> None:
    full = Failure.of(ContextFullError(10, 10)).error()
    assert isinstance(full, ContextFullError) and "10" in str(full)
    hidden = Failure.of(ValueError("a secret")).error()
    assert isinstance(hidden, EngineFailedError) and "secret" not in str(hidden) and "ValueError" in str(hidden)
    assert isinstance(Failure(kind="SystemExit", message="x").error(), EngineFailedError)


def test_digests_of_a_prompt_are_those_of_the_cache() -> None:
    llm = LLM(threads=1)
    engine = bounded(llm)
    from geminate import SamplingParams

    prompt = [int(i * 7 % 300) + 5 for i in range(3 * BLOCK + 10)]
    engine.add(prompt, SamplingParams(max_tokens=2, temperature=0.0))
    engine.run()
    memory = engine.engine.memory
    assert isinstance(memory, KVBudget)
    assert set(block_digests(prompt, ())) == set(memory.digests(100)) and len(memory.digests(2)) == 2
    other = [*prompt[:BLOCK], 4, *prompt[BLOCK + 1 :]]
    mine, theirs = block_digests(prompt, ()), block_digests(other, ())
    assert mine[0] == theirs[0] and not set(mine[1:]) & set(theirs[1:])


PIN = """
import sys, time
from pathlib import Path
from geminate.fleet import cores
cores.directory = lambda: Path(sys.argv[1])
import os
print(cores.pin(int(sys.argv[2])), sorted(os.sched_getaffinity(0)), flush=True)
time.sleep(60)
"""


def test_cores_are_given_to_one_replica_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "directory", lambda: tmp_path)
    all_cores = sorted(os.sched_getaffinity(0))
    holder = subprocess.Popen(
        [sys.executable, "-c", PIN, str(tmp_path), str(len(all_cores))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == f"{all_cores} {all_cores}"
        assert cores.pin(1) == [] and sorted(os.sched_getaffinity(0)) == all_cores
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    second = subprocess.Popen([sys.executable, "-c", PIN, str(tmp_path), "1"], stdout=subprocess.PIPE, text=True)
    try:
        assert second.stdout is not None
        first = all_cores[0]
        assert second.stdout.readline().strip() == f"[{first}] [{first}]"
    finally:
        second.kill()
        second.wait()


def test_gauge_names() -> None:
    assert gauge_aliases(["num_requests_waiting=vllm:num_requests_waiting"]) == {
        "vllm:num_requests_waiting": "num_requests_waiting"
    }
    assert gauge_aliases(f"{gauge}=x:{i}" for i, gauge in enumerate(GAUGES))
