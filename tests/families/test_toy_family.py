"""A new family is a folder and one line in the registry; nothing else has to know of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from families.toy.config import NAMES
from families.toy.dialect import DIALECT
from families.toy.family import TOY
from geminate import LLM, SamplingParams
from geminate.errors import ConfigError
from geminate.families import registry
from support.fabricate_gemma3 import make_target


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target("1B", tmp_path_factory.mktemp("models") / "gemma3")


@pytest.fixture
def toy(gemma3: Path, tmp_path: Path) -> Path:
    """The same weights under the toy family's field names."""
    config = json.loads((gemma3 / "config.json").read_text())
    own_names = {theirs: own for own, theirs in NAMES.items()}
    renamed = {own_names.get(name, name): value for name, value in config.items()} | {"model_type": "toy"}
    (tmp_path / "config.json").write_text(json.dumps(renamed))
    for file in gemma3.glob("*.safetensors"):
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def test_one_registry_line_is_enough(gemma3: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="model_type 'toy' is not supported"):
        LLM(toy)
    monkeypatch.setattr(registry, "FAMILIES", [*registry.FAMILIES, TOY])
    ids = [2, 17, 40, 5, 99]
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    with LLM(toy, use_cache=False) as ours, LLM(gemma3, drafter=None, use_cache=False) as theirs:
        assert ours.pair.source is not None and ours.pair.source.family.dialect is DIALECT
        assert np.array_equal(ours.logits(ids), theirs.logits(ids))
        plain = ours.generate([ids], params, speculation="off")[0].token_ids
        assert plain == ours.generate([ids], params, speculation="ngram")[0].token_ids
        assert plain == theirs.generate([ids], params)[0].token_ids
    with pytest.raises(ConfigError, match="toy"):
        LLM(gemma3, drafter=toy)
