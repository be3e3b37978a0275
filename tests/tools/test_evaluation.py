"""`geminate eval`: figures against their definitions, groups, presets, and what is refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from geminate.backends.select import make_backend
from geminate.errors import ParameterError
from geminate.families.registry import load_target_config, open_model
from geminate.loading.compile import compile_target
from geminate.loading.locate import embedded_pair
from geminate.runtime.target import TargetModel
from geminate.text.windows import windows
from geminate.tools.evaluate.run import evaluate
from geminate.tools.evaluate.score import ReferenceRows, compare
from geminate.tools.evaluate.sensitivity import by_group, groups
from geminate.tools.quantize.run import quantize_model
from geminate.weights.opening import open_weights
from geminate.weights.presets import Preset, keeps_int8, tensor_format
from geminate.weights.specs import expected_tensors
from support.cli import geminate, refused

EMBEDDED = embedded_pair()[0]
PRESETS: tuple[Preset, ...] = ("bf16", "int8", "int4+", "int4")


@pytest.mark.parametrize("apart", [0.0, 1e-4, 0.1, 5.0])
def test_divergence_by_its_definition(apart: float) -> None:
    rng = np.random.default_rng(0)
    p = (8 * rng.standard_normal((6, 700))).astype(np.float32)
    q = (p + apart * rng.standard_normal(p.shape)).astype(np.float32)
    lp, lq = log_softmax(p.astype(np.float64), axis=1), log_softmax(q.astype(np.float64), axis=1)
    with ThreadPoolExecutor(2) as pool:
        kl, log_sum = ReferenceRows(p, pool).apart(q)
    np.testing.assert_allclose(kl, (np.exp(lp) * (lp - lq)).sum(1), rtol=1e-7, atol=1e-13)
    np.testing.assert_allclose(q[:, 0] - log_sum, lq[:, 0], rtol=1e-9)
    assert (kl >= 0).all()


@pytest.fixture(scope="module")
def targets(models: dict[str, Path]) -> dict[str, TargetModel]:
    config, backend = load_target_config(models["E2B"]), make_backend(1)
    return {
        preset: compile_target(config, open_weights(open_model(models["E2B"]), config, preset), backend, max_rows=32)
        for preset in PRESETS
    }


def parts(count: int = 3, length: int = 45) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(3, 500, length).astype(np.int32) for i in range(count)]


def test_scores_by_their_definitions(targets: dict[str, TargetModel]) -> None:
    """Windows longer than a pass; logits from the model's own method."""
    seen: list[tuple[int, int]] = []
    perplexity, scores = compare(
        targets["bf16"], {"int4": targets["int4"], "same": targets["bf16"]}, parts(), lambda d, t: seen.append((d, t))
    )
    nll, nll4, kl, same = [], [], [], []
    for part in parts():
        lp = log_softmax(targets["bf16"].logits(part[:-1], 32).astype(np.float64), axis=1)
        lq = log_softmax(targets["int4"].logits(part[:-1], 32).astype(np.float64), axis=1)
        rows = np.arange(len(part) - 1)
        nll += (-lp[rows, part[1:]]).tolist()
        nll4 += (-lq[rows, part[1:]]).tolist()
        kl += (np.exp(lp) * (lp - lq)).sum(1).tolist()
        same += (lp.argmax(1) == lq.argmax(1)).tolist()
    assert perplexity == pytest.approx(np.exp(np.mean(nll)), rel=1e-9)
    assert scores["int4"].perplexity == pytest.approx(np.exp(np.mean(nll4)), rel=1e-9)
    assert scores["int4"].kl == pytest.approx(np.mean(kl), rel=1e-7) and scores["int4"].kl > 1e-4
    assert scores["int4"].top1 == pytest.approx(np.mean(same))
    assert (scores["same"].kl, scores["same"].top1) == (0.0, 1.0)
    assert seen[-1] == (132, 132)


def test_groups_hold_every_matrix_once_by_place_and_once_by_kind(models: dict[str, Path]) -> None:
    for size in ("E2B", "26B-A4B", "31B"):
        config = load_target_config(models[size])
        found = groups(config)
        by_place = [n for g, names in found.items() if not g.startswith("every ") for n in names]
        want = [s.name for s in expected_tensors(config) if s.role in ("matrix", "embedding", "experts", "row_table")]
        assert sorted(by_place) == sorted(want)
        by_kind = [n for g, names in found.items() if g.startswith("every ") for n in names]
        assert sorted(by_kind) == sorted(n for n in want if n.startswith("layers."))


def test_a_group_alone_costs_what_replacing_it_costs(targets: dict[str, TargetModel], models: dict[str, Path]) -> None:
    config, backend = load_target_config(models["E2B"]), make_backend(1)
    stores = {name: targets[name].store for name in ("bf16", "int8", "int4")}
    found = {g.group: g for g in by_group(config, stores, "int4", backend, parts(1))}
    assert set(found) == set(groups(config))
    alone = compile_target(config, stores["bf16"].replaced({"embed_tokens"}, stores["int4"]), backend, max_rows=32)
    _, want = compare(targets["bf16"], {"x": alone}, parts(1))
    head = found["head and embedding"]
    assert head.score == want["x"] and head.score.kl > 0
    assert head.bytes_saved > 0 and head.bytes_to_int8 > 0 and head.kl_per_mb
    assert found["per-layer embedding"].bytes_to_int8 == 0, "that table has no int4"


@pytest.mark.parametrize("size", ["E2B", "26B-A4B"])
def test_int4_plus_keeps_head_keys_values_and_ends(models: dict[str, Path], size: str) -> None:
    config = load_target_config(models[size])
    kept = {s.name for s in expected_tensors(config) if tensor_format(s, None, "int4+", config) == "int8"}
    last = config.layers[-1].index
    assert {"embed_tokens", "layers.0.mlp.down_proj", f"layers.{last}.self_attn.o_proj"} <= kept
    assert {"layers.1.self_attn.k_proj", "layers.1.self_attn.v_proj"} <= kept
    assert not {"layers.1.mlp.down_proj", "layers.1.self_attn.o_proj"} & kept
    store = open_weights(open_model(models[size]), config, "int4+", use_cache=False)
    assert store.format == "mixed"
    for spec in expected_tensors(config):
        if spec.role in ("matrix", "embedding", "experts"):
            assert store.matrix(spec.name).format == ("int8" if keeps_int8(spec, config) else "int4")


def test_another_meaning_of_a_preset_makes_packed_files_stale(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_target_config(models["E2B"])
    formats = {name: open_weights(open_model(models["E2B"]), config, name, cache_dir=tmp_path) for name in PRESETS}
    assert all(open_weights(open_model(models["E2B"]), config, name, cache_dir=tmp_path).from_cache for name in formats)
    monkeypatch.setattr("geminate.weights.presets.keeps_int8", lambda spec, config: spec.role == "embedding")
    again = open_weights(open_model(models["E2B"]), config, "int4+", cache_dir=tmp_path)
    assert not again.from_cache and again.matrix("layers.0.mlp.up_proj").format == "int4"
    assert open_weights(open_model(models["E2B"]), config, "int4", cache_dir=tmp_path).from_cache


def test_windows() -> None:
    found = windows(list(range(100, 130)), 2, 10)
    assert [w.tolist() for w in found] == [[2, *range(100 + 9 * i, 109 + 9 * i)] for i in range(3)]
    assert len(windows(list(range(90)), None, 10, most=25)) == 2
    for ids, length, most in (([1] * 5, 10, None), ([1] * 50, 3, None), ([1] * 50, 10, 0)):
        with pytest.raises(ParameterError):
            windows(ids, 2, length, most)


def test_what_is_refused(tmp_path: Path) -> None:
    for presets, options, says in (
        ((), {}, "at least one"),
        (("bf16",), {}, "compared with"),
        (("int8", "int8"), {}, "twice"),
        (("int8",), {"by_tensor": "bf16"}, "compared with"),
        (("int8",), {"context": 10**6}, "context is"),
        (("int8",), {"by_tensor": "int4", "reference": EMBEDDED}, "leave out the reference"),
    ):
        with pytest.raises(ParameterError, match=says):
            evaluate(None, "some text " * 50, presets, **options)  # type: ignore[arg-type]
    text = tmp_path / "t.txt"
    refused("eval", says="--text")
    refused("eval", "--text", str(text), says="cannot read")
    text.write_bytes(b"\xff\xfe")
    refused("eval", "--text", str(text), says="not UTF-8")
    text.write_text("short")
    refused("eval", "--text", str(text), says="longer text")
    refused("eval", "--text", str(text), "--weights", "int5", says="int5")


def test_a_quantized_copy_beside_its_original(tmp_path: Path, models: dict[str, Path]) -> None:
    """Against itself a copy looks perfect; against the original it costs what its format costs there."""
    copy, text = tmp_path / "copy", "Once upon a time there was a small house by the sea. " * 30
    quantize_model(EMBEDDED, copy, "int4")
    scores = {
        name: evaluate(model, text, ["int4"], reference=reference, context=64, max_tokens=256, use_cache=False)
        for name, model, reference in (
            ("plain", EMBEDDED, None), ("itself", copy, copy), ("original", copy, EMBEDDED), ("stored", copy, None)
        )
    }  # fmt: skip
    kl = {name: found.formats[0].score.kl for name, found in scores.items()}
    assert kl["itself"] == kl["stored"] < kl["original"] / 2
    assert kl["original"] < 2 * kl["plain"]
    assert scores["original"].perplexity_bf16 == scores["plain"].perplexity_bf16
    assert scores["original"].as_dict()["reference"] == EMBEDDED.name
    with pytest.raises(ParameterError, match="the model it was made from"):
        evaluate(EMBEDDED, text, ["int8"], reference=models["E2B"])


def test_the_command(tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("Once upon a time there was a small house by the sea. " * 30)
    done = geminate(
        "eval", "--text", str(text), "--context", "64", "--max-tokens", "256", "--by-tensor", "int4", "--json"
    )
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout.splitlines()[-1])
    kl = {name: body["formats"][name]["kl"] for name in ("int8", "int4+", "int4")}
    assert 0 < kl["int8"] < kl["int4+"] < kl["int4"]
    sizes = [body["formats"][name]["streamed_bytes"] for name in ("int4", "int4+", "int8")]
    assert sizes == sorted(sizes) and body["bf16"]["streamed_bytes"] > sizes[-1]
    assert any(g["group"] == "head and embedding" for g in body["by_tensor"]) and "top-1" in done.stdout
