"""Checkpoints with static activations against transformers 5.24.0, whose results `mobile/make.py` has written down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geminate import LLM, SamplingParams
from geminate.arrays import F32, I32
from geminate.backends.base import Backend
from geminate.backends.select import make_backend
from geminate.families.registry import load_target_config, open_model
from geminate.formats.matrix import PackedMatrix, RowTable
from geminate.loading.identity import kv_identity
from geminate.loading.load import load_pair
from geminate.loading.options import LoadOptions
from geminate.plan import nodes as p
from geminate.plan.batch import Batch, Rows
from geminate.weights.opening import open_weights
from geminate.weights.specs import canonical, expected_tensors
from geminate.weights.store import WeightStore
from support.cache_files import forge
from support.mobile import FIXTURES, MODELS, Tensors, changed, compressed, copied, published, reference

ISAS = ["", "reference"]
BOUND = 1e-3


def store_of(directory: Path) -> WeightStore:
    return open_weights(open_model(directory), load_target_config(directory), "auto", use_cache=False)


def product(backend: Backend, w: PackedMatrix, rows: F32) -> F32:
    """rows [m, k] through a Linear as a backend runs it, float32 [m, n]."""
    # A table with a scale for every column holds any row: code 1 times the value.
    planes = {"codes": np.ones(rows.shape, np.uint8), "scales": np.ascontiguousarray(rows)}
    table = RowTable(format="q8r", rows=len(rows), width=w.k, planes=planes)
    plan = p.Plan(
        widths={"x": w.k, "y": w.n},
        nodes=(p.Embed(out="x", table=table, scale=1.0), p.GatherRows(x="x"), p.Linear(x="x", out="y", w=w)),
        ropes=(),
        hidden="y",
        logits="y",
    )
    program = backend.compile(plan, max_rows=len(rows))
    cache = backend.new_kv((), max_rows=len(rows)).new(len(rows))
    ids: I32 = np.arange(len(rows), dtype=np.int32)
    return program.run(Batch.of([Rows(cache=cache, ids=ids, wanted=len(rows))]))[1]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("isa", ISAS)
def test_integer_sums_are_equal(name: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINATE_ISA", isa)
    backend, store, want = make_backend(2), store_of(FIXTURES / name), reference(name)
    modules = sorted(key.removesuffix(".input") for key in want if key.endswith(".input"))
    assert len(modules) == 6 * 7 + 3 * 2 + 1
    seen = set()
    for module in modules:
        w = store.matrix(canonical(f"{module}.weight"))
        rows, out = want[f"{module}.input"].numpy(), want[f"{module}.output"].numpy()
        got = product(backend, w, rows)
        if w.input_scale:
            sums = want[f"{module}.sums"].numpy()
            bare = product(backend, replace(w, output_scale=0.0), rows)
            scales = w.planes["scales"].reshape(-1)[: w.n]
            assert np.array_equal(bare, sums.astype(np.float32) * (scales * np.float32(w.input_scale))), module
        bound = 2e-6 if w.input_scale else 5e-5  # without calibration inputs are rounded to 16 bits
        assert np.abs(got - out).max() <= bound * np.abs(out).max(), module
        seen.add((w.format, w.input_scale > 0, w.output_scale > 0))
    assert {fmt for fmt, _, _ in seen} == {"q2r", "q4r", "q8r"}
    assert {(into, out) for _, into, out in seen} == {(True, True), (True, False), (False, False)}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("isa", ISAS)
def test_logits(name: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINATE_ISA", isa)
    want = reference(name)
    llm = LLM(FIXTURES / name, drafter=None, use_cache=False)
    for chunk in (16, 7):
        theirs = want["logits"].numpy()
        got = llm.pair.target.logits(want["ids"].numpy(), chunk)[-len(theirs) :]
        assert np.abs(got - theirs).max() <= BOUND * np.abs(theirs).max()


@pytest.mark.parametrize("name", MODELS)
def test_greedy_ids(name: str) -> None:
    want = reference(name)
    params = SamplingParams(max_tokens=len(want["greedy"]), temperature=0.0, ignore_eos=True)
    llm = LLM(FIXTURES / name, drafter=None, use_cache=False)
    for speculation in ("off", "ngram"):
        got = llm.generate([want["ids"].tolist()], params, speculation=speculation)[0].token_ids
        assert got == want["greedy"].tolist()
    assert len(set(want["greedy"].tolist())) >= 8, "texts this uniform test nothing"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", [published, compressed])
def test_other_forms_are_the_same_model(name: str, form: object, tmp_path: Path) -> None:
    said: list[str] = []
    theirs = LLM(form(name, tmp_path / "m"), drafter=None, use_cache=False, on_message=said.append)  # type: ignore[operator]
    ours = LLM(FIXTURES / name, drafter=None, use_cache=False)
    ids = reference(name)["ids"].tolist()
    assert np.array_equal(theirs.logits(ids), ours.logits(ids))
    assert theirs.pair.target.store.format == "mobile"
    if form is published:
        assert sum("int8 KV cache" in line for line in said) == 1 and sum("unused k/v" in line for line in said) == 1


@pytest.mark.parametrize("name", MODELS)
def test_tables_and_packed_file(name: str, tmp_path: Path) -> None:
    """Rows of the tables are code times scale; a second start reads the packed file, with the same numbers."""
    directory = copied(name, tmp_path / "m")
    config = load_target_config(directory)
    source = open_model(directory)
    first = open_weights(source, config, "auto", cache_dir=tmp_path / "cache")
    again = open_weights(source, config, "mobile", cache_dir=tmp_path / "cache")
    assert not first.from_cache and again.from_cache and again.contents == first.contents
    for table in ("embed_tokens", "embed_tokens_per_layer"):
        entry = source.tensors[f"model.{table}.weight"]
        spec = next(spec for spec in expected_tensors(config) if spec.name == table)
        whole = entry.of_width(spec.shape[1]).rows(0, spec.shape[0])  # type: ignore[attr-defined]
        assert np.array_equal(again.row_table(table).dequantized(), whole)
    for spec in expected_tensors(config):
        if spec.role in ("matrix", "embedding"):
            a, b = first.matrix(spec.name), again.matrix(spec.name)
            assert (a.input_scale, a.output_scale, a.format) == (b.input_scale, b.output_scale, b.format)
            assert np.array_equal(a.dequantized(), b.dequantized())
    assert again.embedding() is not again.head() and again.head().input_scale == 0


FORGED: dict[str, tuple[str, str, object]] = {
    "blocks": ("embed_tokens_per_layer", "blocks", 7),
    "no number of blocks": ("embed_tokens_per_layer", "blocks", "6"),
    "negative": ("layers.0.mlp.up_proj", "input_scale", -1.0),
    "no number": ("layers.0.mlp.up_proj", "output_scale", "0.5"),
    "not finite": ("lm_head", "input_scale", float("inf")),
    "format": ("layers.0.mlp.up_proj", "format", "q8r"),
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_headers_are_packed_again(what: str, tmp_path: Path) -> None:
    directory = copied("e2b", tmp_path / "m")
    LLM(directory, drafter=None, cache_dir=tmp_path / "cache", threads=1).close()
    [file] = (tmp_path / "cache").glob("*.geminate")
    name, key, value = FORGED[what]
    forge(file, lambda header: header["tensors"][name].update({key: value}))
    llm = LLM(directory, drafter=None, cache_dir=tmp_path / "cache", threads=1)
    assert not llm.pair.target.store.from_cache


def test_activation_scales_are_part_of_what_prefixes_are_kept_under(tmp_path: Path) -> None:
    def louder(found: Tensors) -> None:
        found["model.layers.0.mlp.up_proj.output_activation_scale"] *= 2

    a = load_pair(LoadOptions(model=copied("e2b", tmp_path / "a" / "m"), drafter=None, use_cache=False))
    b = load_pair(
        LoadOptions(model=changed("e2b", tmp_path / "b" / "m", tensors=louder), drafter=None, use_cache=False)
    )
    arrays = [[row[:2] for row in pair.target.store.contents] for pair in (a, b)]
    assert arrays[0] == arrays[1] and a.target.store.contents != b.target.store.contents
    assert kv_identity(a) != kv_identity(b)
