"""The NEON kernels on emulated processors: a reduced form of ``scripts/emulate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geminate import LLM, SamplingParams
from support.emulated_arm import CPUS, QUICK_ROWS, ROOT, EmulatedArm, Unavailable

TABLE = ROOT / "tests" / "property" / "hashes.json"
ASK = """
from geminate import LLM, SamplingParams
llm = LLM()
for temperature in (0.0, 1.0):
    [out] = llm.generate(["Once upon a time"], SamplingParams(max_tokens=12, temperature=temperature, seed=5))
    print(out.token_ids)
"""


@pytest.fixture(scope="module")
def arm() -> EmulatedArm:
    made = EmulatedArm(ROOT / "build" / "emulate")
    try:
        made.prepare()
        made.qemu  # noqa: B018 - fetches it
    except Unavailable as error:
        pytest.skip(f"no emulated ARM here: {error}")
    return made


@pytest.mark.parametrize("cpu", CPUS)
def test_an_arm_processor_computes_the_committed_bits(cpu: str, arm: EmulatedArm) -> None:
    assert arm.isas(cpu) == CPUS[cpu], "what the processor has is found, and nothing else"
    assert " 0 differ" in arm.selftest(cpu, "quick")
    table = json.loads(TABLE.read_text())
    text = arm.run(cpu, arm.python, Path(__file__).parents[1] / "support" / "hash_rows.py", "-", *QUICK_ROWS)
    assert dict(map(json.loads, text.splitlines())) == {row: table[row] for row in QUICK_ROWS}


def test_an_instruction_set_that_is_not_there_is_one_line(arm: EmulatedArm) -> None:
    with pytest.raises(RuntimeError) as error:
        arm.geminate("cortex-a57", "generate", "-q", "Hello", isa="neon-i8mm")
    lines = [line for line in str(error.value).splitlines() if "GEMINATE_ISA" in line]
    assert lines and "neon, scalar" in lines[0]


def test_tokens_are_this_machine_s(arm: EmulatedArm) -> None:
    llm = LLM()
    here = [
        llm.generate(["Once upon a time"], SamplingParams(max_tokens=12, temperature=temperature, seed=5))[0].token_ids
        for temperature in (0.0, 1.0)
    ]
    there = [json.loads(line) for line in arm.run("max,pauth-impdef=on", arm.python, "-c", ASK).splitlines()]
    assert there == [list(ids) for ids in here]
