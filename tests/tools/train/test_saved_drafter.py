"""A drafter saved here is Gemma4AssistantForCausalLM to transformers, with the same logits, clusters or not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Gemma4AssistantForCausalLM

from geminate import LLM, SamplingParams
from geminate.families.registry import load_assistant_config
from geminate.tools.train.checkpoint import load_drafter, save_drafter, scratch_config
from geminate.tools.train.clusters import cluster_tokens, principal_rows
from geminate.tools.train.drafter import Drafter
from geminate.tools.train.job import _initialise

EMBEDDED = Path(__file__).resolve().parents[3] / "src" / "geminate" / "assets" / "embedded"


def made(target: Path, out: Path, *, centroid_head: bool) -> Drafter:
    """A drafter from scratch for ``target``, saved to ``out``, its weights as they were rounded."""
    llm = LLM(target, weights="bf16", threads=1)
    raw = scratch_config(
        llm.config,
        json.loads((target / "config.json").read_text()),
        hidden=64,
        layers=3,
        heads=None,
        intermediate=None,
        centroid_head=centroid_head,
    )
    torch.manual_seed(1)
    drafter = Drafter(load_assistant_config(raw), "P")
    _initialise(drafter)
    drafter.table.copy_(principal_rows(torch.randn(llm.config.vocab_size, 64), 64))
    if drafter.centroids is not None:
        cluster_tokens(drafter, rounds=2)
    save_drafter(drafter, raw, out)
    return load_drafter(out, llm.config, "P")[0]


@pytest.mark.parametrize("name", ["embedded", "31B"])
@pytest.mark.parametrize("centroid_head", [True, False], ids=["clusters", "full head"])
def test_same_logits_in_transformers(name: str, centroid_head: bool, models: dict[str, Path], tmp_path: Path) -> None:
    target = EMBEDDED / "target" if name == "embedded" else models[name]
    drafter = made(target, tmp_path / "new", centroid_head=centroid_head)
    assert drafter.config.use_ordered_embeddings == (centroid_head and name == "embedded"), (
        "512 tokens need no clusters"
    )
    theirs, told = Gemma4AssistantForCausalLM.from_pretrained(
        tmp_path / "new", dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    text, rows = drafter.config.text, 12
    g = torch.Generator().manual_seed(2)
    kv = {
        la.kind: tuple(torch.randn(1, la.kv_heads, rows, la.head_dim, generator=g) for _ in range(2))
        for la in text.layers
    }
    backbone = drafter.config.backbone_hidden_size
    embedded, hidden = (torch.randn(1, rows, backbone, generator=g) for _ in range(2))
    geometry = drafter.geometry(rows)
    with torch.no_grad():
        normed, following = drafter.step(embedded, hidden, kv, geometry)  # type: ignore[arg-type]
        out = theirs.eval()(
            inputs_embeds=torch.cat((embedded[:, -1:], hidden[:, -1:]), dim=-1),
            position_ids=torch.tensor([[rows]]),
            shared_kv_states=kv,
        )
    want = out.logits[0, 0]
    ours = drafter.table @ normed[0, -1]
    if drafter.config.use_ordered_embeddings:
        assert drafter.centroids is not None
        clusters = drafter.centroids(normed[0, -1]).topk(drafter.config.centroid_top_k).indices
        chosen = drafter.token_ordering.view(drafter.config.num_centroids, -1)[clusters].flatten()
    else:
        chosen = torch.arange(text.vocab_size)
    torch.testing.assert_close(ours[chosen], want[chosen], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(following[0, -1], out.last_hidden_state[0, 0], rtol=1e-3, atol=1e-3)
    assert int(drafter.draft(normed[0, -1:])) == int(want.argmax())


@pytest.mark.parametrize("centroid_head", [True, False], ids=["clusters", "full head"])
def test_served_without_changing_a_token(centroid_head: bool, tmp_path: Path) -> None:
    made(EMBEDDED / "target", tmp_path / "new", centroid_head=centroid_head)
    llm = LLM(drafter=tmp_path / "new", threads=1)
    assert llm.pair.drafter is not None
    ids = np.arange(5, 25).tolist()
    params = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
    plain, drafted = (llm.generate([ids], params, speculation=k)[0] for k in ("off", 4))
    assert plain.token_ids == drafted.token_ids and drafted.stats.drafted > 0


def test_a_full_disk_leaves_the_old_drafter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from geminate.errors import TrainingError
    from geminate.tools.train import checkpoint

    drafter = made(EMBEDDED / "target", tmp_path / "new", centroid_head=False)
    before = (tmp_path / "new" / "model.safetensors").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TrainingError, match="No space left"):
        save_drafter(drafter, {}, tmp_path / "new")
    assert (tmp_path / "new" / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
