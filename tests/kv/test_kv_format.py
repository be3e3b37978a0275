"""The KV format as an option: library, commands and server run in it, reports name it, unknown ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from geminate import LLM, SamplingParams
from geminate.errors import ParameterError
from geminate.loading.calibrate import cost_profile
from geminate.tools.evaluate.kv import evaluate_kv
from support.cli import geminate, refused
from support.engines import bounded, cold
from support.serving import MODEL, Served

PROMPT = "Once upon a time there was a little girl who"
GREEDY = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(packed_cache: Path) -> LLM:
    return LLM(kv="int8", threads=1)


def test_int8_takes_half_and_speculation_changes_nothing(llm: LLM, packed_cache: Path) -> None:
    half = LLM(threads=1)
    assert (half.pair.target.kv_format, llm.pair.target.kv_format) == ("f16", "int8")
    for context in (64, 2048):
        assert 0.5 < llm.pair.target.kv.nbytes(context) / half.pair.target.kv.nbytes(context) < 0.57
    ids = llm.encode(PROMPT)
    plain = cold(llm, ids, GREEDY)
    assert plain[1] != cold(half, ids, GREEDY)[1], "int8 keys and values have logits of their own"
    for speculation in (1, 4, "auto", "ngram"):
        watched = bounded(llm)
        sequence = watched.add(ids, GREEDY, speculation)
        watched.run()
        assert (sequence.output_ids, watched.digest(sequence)) == plain
        assert speculation != 4 or sequence.stats.accepted > 0, "the drafter reads the same cache"


def test_prefixes_are_kept_in_it(llm: LLM) -> None:
    watched = bounded(llm)
    ids = np.random.default_rng(3).integers(3, 4000, 200).tolist()
    for reused in (0, 192):
        sequence = watched.add(ids, GREEDY)
        watched.run()
        assert sequence.stats.reused_tokens == reused
        assert (sequence.output_ids, watched.digest(sequence)) == cold(llm, ids, GREEDY)
    memory = watched.engine.memory
    assert memory is not None and memory.kept % llm.pair.target.kv.block_bytes == 0 < memory.kept


def test_each_format_has_its_own_cost_profile(tmp_path: Path) -> None:
    for kv in ("f16", "int8", "f16"):
        cost_profile(LLM(kv=kv, threads=1, cache_dir=tmp_path).pair)  # type: ignore[arg-type]
    (kept,) = tmp_path.rglob("*.costs.json")
    assert sorted("KV int8" in key for key in json.loads(kept.read_text())) == [False, True]


def test_commands(llm: LLM) -> None:
    said = geminate("generate", PROMPT, "--raw", "--kv", "int8", "--temperature", "0", "-n", "40", "--ignore-eos")
    assert said.stdout.rstrip("\n") == llm.generate(PROMPT, GREEDY)[0].text.rstrip("\n")
    body = json.loads(geminate("info", "--json", "--kv", "int8").stdout)
    assert body["kv"] == {"format": "int8", "bytes": {"2048": llm.pair.target.kv.nbytes(2048)}}
    lines = geminate("info", "--kv", "int8").stdout.splitlines()
    assert any(line.startswith("KV cache: int8, 0.") and line.endswith(" MB for 2,048 tokens") for line in lines)
    report = json.loads(geminate("verify", "--json", "--kv", "int8", "--limit", "1", "-n", "8").stdout)
    assert report["identical"] and report["kv_hashes"] == {"int8": report["logits_hash"]}


def test_benchmarks(models: dict[str, Path]) -> None:
    step = geminate("bench", "step", str(models["E2B"]), "--kv", "int8", "--rows", "1", "--repeats", "3", "--json")
    assert json.loads(step.stdout.splitlines()[-1])["kv"] == "int8" and "context 128 in int8" in step.stdout
    given = ("--kv", "int8", "--limit", "1", "-n", "8", "--repeats", "1", "--lengths", "2")
    decode = geminate("bench", "decode", *given, "--json")
    assert json.loads(decode.stdout.splitlines()[-1])["kv"] == "int8" and "KV cache int8" in decode.stdout


@pytest.mark.parametrize("command", ["generate", "chat", "info", "verify", "serve"])
def test_unknown_formats_are_refused(command: str) -> None:
    refused_in_one_line = "kv must be one of f16, int8, not 'q8_0'"
    words = ("hi",) if command == "generate" else ()
    if command == "serve":
        done = geminate("serve", "--kv", "q8_0")
        assert done.returncode == 2 and refused_in_one_line in done.stderr and "Traceback" not in done.stderr
    else:
        refused(command, *words, "--kv", "q8_0", says=refused_in_one_line)
    with pytest.raises(ParameterError, match="kv must be one of"):
        LLM(kv="float16")  # type: ignore[arg-type]


def test_the_server(llm: LLM) -> None:
    with Served("--threads", "1", "--kv", "int8") as server:
        assert server.wait_log("ready")["kv"] == "int8"
        with httpx.Client(base_url=server.url, timeout=60) as client:
            assert client.get("/v1/models").json()["data"][0]["geminate"]["kv"] == "int8"
            body = {"model": MODEL, "prompt": PROMPT, "temperature": 0, "max_tokens": 40, "ignore_eos": True}
            text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
            assert text == llm.generate(PROMPT, GREEDY)[0].text
            assert f'geminate:kv_cache_usage_perc{{kv="int8",model_name="{MODEL}"}}' in client.get("/metrics").text


def test_its_price(tmp_path: Path) -> None:
    text = "Once upon a time there was a small house by the sea. " * 30
    found = evaluate_kv(None, text, ["int8", "bf16"], "int8", context=128, max_tokens=256)
    assert [each.preset for each in found.scores] == ["int8", "bf16"]
    for each in found.scores:
        assert 0 < each.score.kl < 0.01 and each.score.top1 > 0.95
        assert each.score.perplexity == pytest.approx(each.perplexity_f16, rel=0.01)
    assert 0.5 < found.bytes_kv / found.bytes_f16 < 0.57
    with pytest.raises(ParameterError, match="f16 is what KV formats are compared with"):
        evaluate_kv(None, text, ["int8"], "f16")
    (tmp_path / "t.txt").write_text(text)
    given = ("eval", "--text", str(tmp_path / "t.txt"), "--context", "64", "--max-tokens", "128", "--kv")
    done = geminate(*given, "int8", "--json")
    body = json.loads(done.stdout.splitlines()[-1])
    assert body["benchmark"] == "eval-kv" and body["weights"]["int8"]["kl"] > 0 and "KL (nats)" in done.stdout
    refused(*given, "int8", "--by-tensor", "int4", says="leave out --reference and --by-tensor")
    refused(*given, "f16", says="f16 is what KV formats are compared with")
