"""`LoadOptions` is the one declaration of how a model is loaded: `LLM`, commands and settings follow it."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from geminate import LLM
from geminate.errors import ParameterError
from geminate.loading.options import LoadOptions
from geminate.server.settings import Settings


def test_llm_takes_the_same_arguments_with_the_same_defaults() -> None:
    own = {name: p.default for name, p in inspect.signature(LLM).parameters.items()}
    assert own.pop("on_message") is None and own.pop("progress") is None
    assert own == {f.name: f.default for f in dataclasses.fields(LoadOptions)}


def test_the_server_settings_become_load_options() -> None:
    given = Settings(
        model="m",
        adapter=("a", "b=0.5"),
        drafter="none",
        weights="int4",
        kv="int8",
        threads=3,
        rope_position="P-1",
        cache=False,
        verify_weights=True,
        prefault=True,
    )
    expected = LoadOptions(
        model="m",
        adapter=("a", "b=0.5"),
        drafter=None,
        weights="int4",
        kv="int8",
        threads=3,
        rope_position="P-1",
        use_cache=False,
        verify_weights=True,
        prefault=True,
    )
    assert given.loading() == expected
    assert Settings().loading() == LoadOptions()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("weights", "int5", "weights must be one of"),
        ("kv", "float16", "kv must be one of f16, int8, not 'float16'"),
        ("rope_position", "Q", "rope_position must be"),
        ("prefill_chunk", 0, "prefill_chunk must be 1 to 4096"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        LoadOptions(**{field: value})
