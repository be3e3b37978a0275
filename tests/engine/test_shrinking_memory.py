"""Address space that runs out under load: requests fail, or the engine ends and says so; none hangs, none lies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

_LOAD = """
import itertools, json, resource, sys, threading, time
from geminate import LLM, SamplingParams
from geminate.engine.messages import EngineRequest

from geminate.server.run import make_service
from geminate.server.settings import Settings

spare = int(sys.argv[1]) << 20
llm = LLM(threads=2)
service = make_service(llm, Settings())
service.start()
numbers = itertools.count()
# Encoded before: the tokenizer's library ends the process where it gets no memory.
prompts = {text: llm.encode(text) for text in ("Once upon a time", "The dog", "A house")}

def ask(text, n=4):
    params = SamplingParams(max_tokens=60, temperature=0.9, seed=5, ignore_eos=True, logprobs=5)
    request = EngineRequest(
        request_id=f"r{next(numbers)}", prompt_ids=prompts[text], sampling=llm.resolve(params), n=n
    )
    ids = {}
    service.submit(request)
    for event in service.events(request.request_id):
        ids.setdefault(event.choice, []).extend(event.token_ids)
    return ids

lone = {text: ask(text) for text in prompts}
outcomes = []

def client(text):
    for _ in range(6):
        try:
            outcomes.append("same" if ask(text) == lone[text] else "different")
        except Exception as error:
            outcomes.append(type(error).__name__)

threads = [threading.Thread(target=client, args=(text,)) for text in lone for _ in range(2)]
for thread in threads:
    thread.start()
time.sleep(0.05)
pages = int(open("/proc/self/statm").read().split()[0])
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + spare, limits[1]))
time.sleep(0.6)
resource.setrlimit(resource.RLIMIT_AS, limits)
for thread in threads:
    thread.join(60)
hung = any(thread.is_alive() for thread in threads)
if service.failed:
    after = "failed"
else:
    after = "same" if all(ask(text) == lone[text] for text in lone) else "different"
    idle = service.idle and not service.engine.running and service.engine.memory.used == 0
    after += "" if idle else ", memory held"
print(json.dumps({"outcomes": outcomes, "hung": hung, "after": after}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc")
@pytest.mark.parametrize("megabytes", [-16, 0, 2, 8])  # below zero nothing can be mapped at all
def test_a_limit_under_load(megabytes: int, packed_cache: object) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _LOAD, str(megabytes)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"},
    )
    if megabytes < 0 and ended.returncode == -signal.SIGABRT:
        # nanobind ends the process where it gets no memory for a call's arguments; it says so, and nothing hangs.
        assert "std::bad_alloc" in ended.stderr
        return
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert not found["hung"] and "different" not in found["outcomes"]
    assert found["after"] in ("same", "failed")
    if megabytes < 0:
        assert set(found["outcomes"]) != {"same"}, "the limit did nothing"
