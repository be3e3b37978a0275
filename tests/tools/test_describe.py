"""What `geminate show` and `geminate info` say: sizes, speed, and the arithmetic behind it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from geminate.errors import BackendError
from geminate.speculation.costs import CostProfile
from geminate.tools.bench.shapes import SHAPES, load_shape
from geminate.tools.capacity import here as probing
from geminate.tools.capacity.expected import POSITION, arithmetic, costs_of, expected_speed
from geminate.tools.capacity.here import Here, here
from geminate.tools.capacity.machines import Machine
from geminate.tools.capacity.roofline import READ, SEQUENCE, STEP, roofline
from geminate.tools.capacity.work import model_work
from geminate.tools.describe import model as describing
from geminate.tools.describe.model import describe
from geminate.tools.describe.needs import LOSS, kv_bytes, needs_of, parameters, unread_embeddings
from geminate.tools.describe.sentences import as_json, format_rows, reasons, sentences, variant_lines

DOCS = Path(__file__).resolve().parents[2] / "docs"
MACHINE = Machine(key="here", name="m", cores=2, int8_gmacs=450.0, bandwidth_gbs=32.0, memory_gb=24.0)
HERE = Here(machine=MACHINE, probed="2026-11-30")
PROFILE = CostProfile(passes=tuple(0.05 + 0.001 * row for row in range(17)), draft_step=0.0006, draft_call=0.0001)


@pytest.mark.parametrize(
    ("shape", "target", "drafter"),
    [  # computed by others from the published shapes: text part, and drafter without its token order
        ("gemma-4-E2B", 4.629e9, 77_731_332),
        ("gemma-4-E4B", 7.463e9, 78_517_764),
        ("gemma-4-12B", 11.907e9, 422_856_964),
        ("gemma-4-26B-A4B", 25.233e9, 419_711_236),
        ("gemma-4-31B", 30.697e9, 469_518_596),
    ],
)
def test_parameters(shape: str, target: float, drafter: int) -> None:
    config, assistant, _ = load_shape(shape, None)
    assert assistant is not None
    assert parameters(config) == pytest.approx(target, rel=2e-4)
    assert parameters(assistant) == drafter


def test_keys_and_values() -> None:
    config, _, _ = load_shape("gemma-4-31B", None)
    first, more = kv_bytes(config, "f16")
    full = [layer for layer in config.layers if layer.kind == "full_attention"]
    grown = sum(2 * 2 * layer.kv_heads * layer.head_dim for layer in full) * 1000
    assert more == pytest.approx(grown, rel=0.05) and first > more
    assert kv_bytes(config, "int8")[0] < 0.6 * first


def test_the_best_draft_length_and_its_rate() -> None:
    config, assistant, _ = load_shape("gemma-4-E2B", None)
    work = model_work(config, assistant, "int4")
    costs = replace(costs_of(PROFILE, "here"), attention_byte=0.0, attention_mac=0.0)
    survival = (0.8, 0.6, 0.1)
    speed = expected_speed(work, costs, survival)
    own = STEP + SEQUENCE
    assert speed.plain == pytest.approx(1 / (0.05 + own))
    assert speed.length == 3 and speed.tokens == pytest.approx(2.5)
    seconds = 0.053 + 0.0001 + 3 * 0.0006 + own + costs.decision
    assert speed.speculating == pytest.approx(2.5 / seconds) and speed.round_s == pytest.approx(seconds)
    hopeless = expected_speed(work, costs, (0.01,))
    assert hopeless.length == 0 and hopeless.speculating == hopeless.plain
    assert "drafts do not pay" in arithmetic(hopeless, work, None, "measured")[-1]
    without = expected_speed(model_work(config, None, "int4"), costs, survival)
    assert without.length == 0


def test_the_arithmetic_can_be_followed() -> None:
    config, assistant, _ = load_shape("gemma-4-E2B", None)
    work = model_work(config, assistant, "int4")
    speed = expected_speed(work, roofline(work, MACHINE, probed=True), (0.844, 0.599, 0.385))
    lines = arithmetic(speed, work, HERE, "as published")
    assert "32.0 GB/s" in lines[0] and "probed 2026-11-30" in lines[0] and "45% off" in lines[0]
    gigabytes, milliseconds = re.search(r"reads ([\d.]+) GB.* = ([\d.]+) ms; its", lines[1]).groups()  # type: ignore[union-attr]
    assert float(milliseconds) == pytest.approx(float(gigabytes) / (32.0 * READ) * 1e3, rel=0.01)
    both, rate = re.search(r"1 / ([\d.]+) ms = ([\d.]+) tokens", lines[2]).groups()  # type: ignore[union-attr]
    assert float(rate) == pytest.approx(1e3 / float(both), rel=0.01) and f"{POSITION:,} tokens" in lines[2]
    found = re.search(r"take ([\d.]+) ms for 1((?: \+ [\d.]+)+) = ([\d.]+) tokens: ([\d.]+) tokens a second", lines[3])
    assert found is not None
    whole, chances, tokens, rate = found.groups()
    assert float(tokens) == pytest.approx(1 + sum(map(float, re.findall(r"[\d.]+", chances))), abs=0.011)
    assert float(rate) == pytest.approx(1e3 * float(tokens) / float(whole), rel=0.01)


def test_memory_of_the_published_shapes() -> None:
    """README and docs/faq.md state these: a shape, its bytes in int4 and int8."""
    for shape, int4, int8 in (("gemma-4-E2B", 1.3e9, 2.4e9), ("gemma-4-31B", 17.4e9, 32.9e9)):
        config, assistant, _ = load_shape(shape, None)
        assert needs_of(config, assistant, "int4", None).weights == pytest.approx(int4, rel=0.04)
        assert needs_of(config, assistant, "int8", None).weights == pytest.approx(int8, rel=0.04)
    assert needs_of(config, assistant, "int8", None).speed is None


def test_k_quants_of_a_file_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = describe("gemma-4-E2B-it:Q4_K_M", measure=False)
    assert format_rows(found)[0][0] == "auto (q4_k_m)"
    assert found.formats[0].weights == pytest.approx(1.4735e9, rel=0.04), "what llama.cpp reads of such a file a token"


def test_embeddings_of_a_file_that_is_not_here() -> None:
    """Google's Q4_0 file has its head in Q6_K, which is kept in int8: 402.7 million weights in 8.5 bits, not 4.5."""
    config, assistant, _ = load_shape("gemma-4-E2B", None)
    plain = needs_of(config, assistant, "int4", None).weights
    finer = needs_of(config, assistant, "int4", None, entries=unread_embeddings("Q6_K")).weights
    assert finer - plain == pytest.approx(262144 * 1536 * 4 / 8, rel=0.01)


def test_losses_are_those_of_the_page() -> None:
    page = (DOCS / "quantization.md").read_text(encoding="utf-8")
    for name, (divergence, same) in LOSS.items():
        row = re.search(rf"\| {re.escape(name)}, rounded \| [\d.]+ \| ([\d.]+) .*? \| ([\d.]+) % \|", page)
        assert row is not None
        assert float(row[1]) == pytest.approx(divergence, abs=6e-5) and float(row[2]) == pytest.approx(100 * same)


def test_rates_are_probed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probes: list[int] = []

    quiet = [True] * 9

    def probe(threads: int) -> tuple[Machine, bool]:
        probes.append(threads)
        return MACHINE, quiet.pop()

    monkeypatch.setattr(probing, "probe_machine", probe)
    monkeypatch.setattr(probing.machine, "available_bytes", lambda: 8_000_000_000)
    first = here(2, folder=tmp_path)
    second = here(2, folder=tmp_path)
    assert probes == [2] and second.machine == replace(MACHINE, memory_gb=8.0) and second.probed == first.probed
    here(1, folder=tmp_path)
    here(2, folder=tmp_path, again=True)
    assert probes == [2, 1, 2]
    for text in ("{", "[]", '{"x": 1}', json.dumps({key: {"machine": {}} for key in json.loads(_kept(tmp_path))})):
        (tmp_path / "machine.json").write_text(text)
        assert here(2, folder=tmp_path).machine.cores == 2
    quiet.append(False)
    kept = _kept(tmp_path)
    disturbed = here(2, folder=tmp_path, again=True)
    assert not disturbed.quiet and _kept(tmp_path) == kept, "rates of a busy machine are not kept"
    (tmp_path / "file").write_text("")
    assert here(2, folder=tmp_path / "file" / "x").machine.bandwidth_gbs == 32.0, "what cannot be kept is probed again"


def _kept(folder: Path) -> str:
    return (folder / "machine.json").read_text()


@pytest.mark.parametrize("name", ["gemma-4-E2B-it", "gemma-4-26B-A4B-it:UD-Q4_K_M", "gemma-4-12B-it:bf16"])
def test_a_name_of_the_catalogue(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(describing, "here", lambda: HERE)
    found = describe(name)
    text = "\n".join(sentences(found))
    for words in ("licence Apache-2.0, no sign-in needed", f"geminate pull {name}", "parameters: ", "memory: weights ",
                  "for the first 1,000 tokens of context", "disk: ", "drafter: "):  # fmt: skip
        assert words in text, text
    assert {line.partition(":")[0] for line in variant_lines(found)} == {name.partition(":")[0]}
    assert {row[0] for row in format_rows(found)} >= {"int8", "int4", "bf16"}
    body = as_json(found)
    plain, drafted = (body["formats"][0]["tokens_per_s"][key] for key in ("plain", "speculating"))
    assert 0 < plain <= drafted and body["arithmetic"] == reasons(found) and len(reasons(found)) >= 4
    json.dumps(body)


def test_the_formats_of_a_checkpoint_for_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    from support.mobile import FIXTURES

    monkeypatch.setattr(describing, "here", lambda: HERE)
    found = describe(str(FIXTURES / "e2b"))
    assert [row[0] for row in format_rows(found)] == ["mobile"], "it can be served in no other format"


def test_without_kernels_there_is_no_speed(monkeypatch: pytest.MonkeyPatch, models: dict[str, Path]) -> None:
    def none() -> Here:
        raise BackendError("no native kernels")

    monkeypatch.setattr(describing, "here", none)
    said: list[str] = []
    found = describe(str(models["E2B"]), on_message=said.append)
    assert said == ["no speed is computed: no native kernels"] and reasons(found) == []
    assert found.drafter is not None and found.drafter.where == "beside the target"
    assert {row[3] for row in format_rows(found)} == {"-"}


def test_shapes_and_catalogue_are_the_same() -> None:
    from geminate.loading.hub.catalogue import catalogue

    assert {model.shape for model in catalogue()} == set(SHAPES)
