"""``geminate bench``: keys, plausible figures, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from geminate import LLM, SamplingParams
from geminate.engine.messages import EngineRequest
from geminate.errors import ParameterError
from geminate.tools.bench import memory
from geminate.tools.bench.decode import behind_context, random_prompts
from geminate.tools.bench.shapes import load_shape
from geminate.tools.bench.step import Work
from support.cli import geminate, refused


def last_line(*args: str) -> dict[str, Any]:
    done = geminate("bench", *args, "--json")
    assert done.returncode == 0, done.stderr
    table = done.stdout.index(" M " if args[0] == "step" else "mode")
    assert done.stdout.index("ceiling:") < table, "the ceiling stands before the figures"
    result = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(result, dict)
    return result


def test_step_of_a_directory(models: dict[str, Path]) -> None:
    r = last_line("step", "--shape", str(models["E2B"]), "--rows", "1,3,20", "--repeats", "3", "--context", "70")
    assert list(r["step_ms"]) == list(r["ratio"]) == list(r["ceiling_fraction"]) == ["1", "3", "20"]
    assert r["ratio"]["1"] == 1.0 and all(0 < f < 3 for f in r["ceiling_fraction"].values())
    assert r["bandwidth_gbps"] > 0.1 and r["int8_gmacs"] > 0.1 and r["weight_bytes"] > 0
    assert r["draft_step_ms"] > 0 and r["context"] == 70
    assert r["prefill_tokens"] == 512 and r["prefill_tokens_per_s"] > 0 and r["prefill_full_tokens_per_s"] > 0
    assert 0 < r["prefill_macs_per_token"] < r["macs_per_row"]


def test_step_of_experts(models: dict[str, Path]) -> None:
    r = last_line("step", "--shape", str(models["26B-A4B"]), "--rows", "1,2,8", "--repeats", "3", "--weights", "int8")
    experts = list(r["experts_per_layer"].values())
    assert experts == sorted(experts) and experts[0] < experts[-1], "more rows read more experts"
    assert r["weight_bytes_by_rows"]["8"] > r["weight_bytes_by_rows"]["1"] == r["weight_bytes"]


def test_step_of_the_mobile_mix(models: dict[str, Path]) -> None:
    r = last_line("step", "--shape", str(models["E2B"]), "--rows", "1,5", "--repeats", "3", "--weights", "mobile")
    config, _, _ = load_shape(str(models["E2B"]), None)
    work, whole = Work(config, "mobile", all_logits=False), Work(config, "mobile", all_logits=True)
    assert r["weights"] == "mobile" and r["macs_per_row"] == work.macs() and r["weight_bytes"] == work.bytes(0, 1)
    # The head's activations have 16 bits: two products for each of its weights.
    assert whole.macs() - work.macs() == config.vocab_size * config.hidden_size
    rest = ("--rows", "1,5", "--repeats", "3", "--weights", "mobile", "--all-logits")
    r = last_line("step", "--shape", str(models["E2B"]), *rest)
    assert r["all_logits"] and r["macs_per_row"] == whole.macs()


def test_decode_the_mobile_mix(models: dict[str, Path]) -> None:
    shape = ("--shape", str(models["E2B"]), "--synthetic-acceptance", "1,0", "--weights", "mobile")
    rest = ("--lengths", "1", "--limit", "1", "--max-tokens", "12", "--repeats", "1", "--json")
    done = geminate("bench", "decode", *shape, *rest)
    assert done.returncode == 0, done.stderr
    r = json.loads(done.stdout.splitlines()[-1])
    assert r["weights"] == "mobile" and r["acceptance_length"]["1"] == pytest.approx(2.0, abs=0.2)


def test_decode_the_embedded_pair() -> None:
    r = last_line("decode", "--limit", "2", "--max-tokens", "24", "--repeats", "1", "--lengths", "2")
    assert set(r["tokens_per_s"]) == {"plain", "2", "auto"} and r["acceptance_length"]["plain"] == 1.0
    assert set(r["speedup_auto"]) == {"mean", "worst", "spread", "by_category"} and r["machine"]
    assert len(r["accepted_per_position"]) == 2 and 1 <= r["acceptance_length"]["2"] <= 3
    assert r["round_ms"]["plain"]["p50"] <= r["round_ms"]["plain"]["p99"] and r["first_token_ms"]["plain"] > 0


def test_decode_behind_a_context() -> None:
    r = last_line("decode", "--limit", "1", "--max-tokens", "8", "--repeats", "1", "--lengths", "", "--context", "200")
    assert r["context"] == 200 and set(r["tokens_per_s"]) == {"plain", "auto"}


def test_the_context_is_computed_once(models: dict[str, Path]) -> None:
    llm = LLM(models["E2B"])
    engine, prompts = behind_context(llm.engine, random_prompts(512, 2, 20), 300, 16)
    reused = []
    for prompt in [prompts[0], *prompts]:
        sampling = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True).resolved()
        sequence = engine.add(EngineRequest(request_id="a", prompt_ids=prompt.token_ids, sampling=sampling))
        engine.run()
        reused.append(sequence.stats.reused_tokens)
    assert len(prompts[0].token_ids) == 320 and reused == [0, 256, 256]
    with pytest.raises(
        ParameterError, match="--context 500 with prompt and answer makes 536 tokens; the model has 512"
    ):
        behind_context(llm.engine, random_prompts(512, 1, 20), 500, 16)


def test_decode_at_given_acceptance() -> None:
    r = last_line(
        "decode",
        "--synthetic-acceptance",
        "1,1,0",
        "--lengths",
        "1,3,6",
        "--limit",
        "1",
        "--max-tokens",
        "40",
        "--repeats",
        "1",
    )
    assert r["accepted_per_position"][:3] == [1.0, 1.0, 0.0], "s_i is the survival of position i"
    assert r["acceptance_length"]["1"] == pytest.approx(2.0, abs=0.1) and r["acceptance_length"]["6"] == pytest.approx(
        3.0, abs=0.15
    )


def test_refusals(models: dict[str, Path], tmp_path: Path) -> None:
    shape = str(models["E2B"])
    refused("bench", "step", "--shape", "gemma-9", says="none of gemma-4-E2B")
    refused("bench", "step", "--shape", shape, "--rows", "1,0", says="different numbers from 1 to 256")
    refused("bench", "step", "--shape", shape, "--rows", "1,x", says="numbers with commas")
    refused("bench", "step", "--shape", shape, "--weights", "int3", says="weights must be one of")
    refused("bench", "step", "--shape", "gemma-4-E2B", "--layers", "7", says="multiple of 5 up to 35")
    refused("bench", "step", "--shape", shape, "--context", "0", says="--context must be")
    refused("bench", "step", "--shape", shape, "--prefill", "513", says="--prefill must be 1 to 512, not 513")
    refused("bench", "step", "--shape", shape, "--threads", "0", says="threads must be 1 to 256")
    refused("bench", "decode", "--lengths", "0", says="--lengths must be draft lengths")
    refused("bench", "decode", "--shape", "gemma-4-E2B", says="--synthetic-acceptance")
    refused("bench", "decode", "--layers", "5", says="--layers goes with --shape")
    refused("bench", "decode", "--drafter", "none", says="has no drafter")
    refused("bench", "decode", "--synthetic-acceptance", "0.5,0.6", says="cannot rise")
    refused("bench", "decode", "--synthetic-acceptance", "1.5", says="between 0 and 1")
    refused("bench", "decode", "--prompts", str(tmp_path / "none"), says="cannot read")
    (tmp_path / "bad").write_text('{"a": 1}\n')
    refused("bench", "decode", "--prompts", str(tmp_path / "bad"), says="expected JSON lines")


def test_memory_is_asked_for_before_it_is_taken(monkeypatch: pytest.MonkeyPatch, models: dict[str, Path]) -> None:
    assert memory.fitting("gemma-4-E2B", "int4", context=128, layers=5).need > 1e9
    monkeypatch.setattr(memory.machine, "available_bytes", lambda: 10_000_000_000)
    fit = memory.fitting("gemma-4-12B", "int8", context=128, layers=None)
    assert fit.layers is not None and fit.layers % 6 == 0 and fit.need <= 8_000_000_000
    assert "10.0 GB are free, of which 80 % may be used" in fit.sentence
    with pytest.raises(ParameterError, match=rf"needs about 14\.9.* --layers {fit.layers} would fit"):
        memory.fitting("gemma-4-12B", "int8", context=128, layers=48)
    monkeypatch.setattr(memory.machine, "available_bytes", lambda: 1_000_000_000)
    with pytest.raises(ParameterError, match="take a smaller --shape"):
        memory.fitting("gemma-4-12B", "int8", context=128, layers=None)
    monkeypatch.setattr(memory.machine, "available_bytes", lambda: None)
    assert memory.fitting("gemma-4-12B", "int8", context=128, layers=None).layers is None
    done = geminate("bench", "step", str(models["E2B"]), "--rows", "1", "--repeats", "3")
    assert done.returncode == 0 and done.stderr.startswith("this needs about ")
