"""Names of models on the hub, the catalogue, and the choice of files by their names."""

from __future__ import annotations

import re

import pytest

from geminate.errors import ModelNotFoundError
from geminate.loading.hub.catalogue import catalogue, known_file
from geminate.loading.hub.choice import AmbiguousNameError, RemoteFile, choose, parts_of, quantization
from geminate.loading.hub.names import (
    HUB_ID,
    catalogue_names,
    drafter_repositories,
    known_name,
    parse_name,
    shape_of,
    suggestions,
)
from geminate.tools.bench.shapes import SHAPES
from geminate.weights.presets import PRESETS

UNSLOTH = "unsloth/gemma-4-E2B-it-GGUF"


@pytest.mark.parametrize(
    ("text", "repository", "revision", "tag"),
    [
        ("google/gemma-4-E2B-it", "google/gemma-4-E2B-it", "main", ""),
        (f"{UNSLOTH}:Q4_K_M", UNSLOTH, "main", "Q4_K_M"),
        (f"hf.co/{UNSLOTH}:Q4_K_M", UNSLOTH, "main", "Q4_K_M"),
        (f"HF.co/{UNSLOTH}", UNSLOTH, "main", ""),
        (f"https://huggingface.co/{UNSLOTH}/", UNSLOTH, "main", ""),
        (f"https://www.huggingface.co/{UNSLOTH}", UNSLOTH, "main", ""),
        (f"hf://{UNSLOTH}:UD-Q4_K_XL", UNSLOTH, "main", "UD-Q4_K_XL"),
        (f"https://huggingface.co/{UNSLOTH}/resolve/main/MTP/x.gguf?download=true", UNSLOTH, "main", "MTP/x.gguf"),
        (f"https://huggingface.co/{UNSLOTH}/blob/abc123/x.gguf", UNSLOTH, "abc123", "x.gguf"),
        (f"https://huggingface.co/{UNSLOTH}/tree/v2", UNSLOTH, "v2", ""),
        (f"{UNSLOTH}@v2:Q8_0", UNSLOTH, "v2", "Q8_0"),
        (f"{UNSLOTH}:MTP/mtp-gemma-4-E2B-it-Q8_0.gguf", UNSLOTH, "main", "MTP/mtp-gemma-4-E2B-it-Q8_0.gguf"),
    ],
)
def test_names_of_the_hub(text: str, repository: str, revision: str, tag: str) -> None:
    found = parse_name(text)
    assert found is not None
    assert (found.repository, found.revision, found.tag, found.known) == (repository, revision, tag, None)
    again = parse_name(found.short)
    assert again is not None and (again.repository, again.revision, again.tag) == (repository, revision, tag)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a/b/c",
        "/a/b",
        "./a/b",
        "../a/b",
        "~/a",
        "x.gguf",
        "models/x.GGUF",
        "a b/c",
        "a/b:",
        "Hi there",
        "a/b:c d",
    ],
)
def test_what_is_no_name(text: str) -> None:
    assert parse_name(text) is None


def test_every_name_of_the_catalogue() -> None:
    names = list(catalogue_names())
    assert len(names) == len(set(names)) > 25 and len(catalogue()) == 5
    for text in names:
        for spelled in (text, text.upper(), text.lower()):
            found = parse_name(spelled)
            assert found is not None and found.known is not None and found.variant is not None and found.chosen
            assert found.repository == found.variant.repository
    for model in catalogue():
        bare = known_name(model.name)
        assert bare is not None and bare.variant is not None and bare.variant.name == model.default and not bare.chosen
        assert known_name(f"{model.name}:") is None and known_name(f"{model.name}:nonsense") is None
    assert parse_name("gemma-4-E2B-it:nonsense") is None


def test_the_catalogue_is_consistent() -> None:
    for model in catalogue():
        assert model.shape in SHAPES and model.licence == "Apache-2.0"
        for variant in model.variants:
            assert HUB_ID.fullmatch(variant.repository) and HUB_ID.fullmatch(variant.drafter)
            assert variant.preset is None or variant.preset in PRESETS
            assert variant.files and variant.drafter_files and variant.what
            for repository, files in ((variant.repository, variant.files), (variant.drafter, variant.drafter_files)):
                for file in files:
                    known = known_file(repository, file)
                    assert known.nbytes is None or known.nbytes > 1 << 20
                    assert known.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", known.sha256)
            if variant.is_gguf:  # the choice by names would take the same files
                listed = [RemoteFile(path=file) for file in variant.files]
                assert choose(variant.repository, listed, variant.files[0]).main == variant.files[0]
            rules = drafter_repositories(variant.repository)
            assert variant.drafter == variant.repository or variant.drafter in rules
    q4_0 = known_name("gemma-4-E2B-it")
    assert q4_0 is not None and q4_0.variant is not None
    assert (q4_0.variant.nbytes, q4_0.variant.drafter_nbytes) == (3_349_516_256, None)
    assert q4_0.variant.download == "3.35 GB + unknown", "what is not known is not invented"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("gemma4:e2b", "gemma-4-E2B-it"),
        ("gemma-4-31b", "gemma-4-31B-it"),
        ("gemma-4-E2B-it:Q5", "gemma-4-E2B-it:q4_0"),
        ("gema-4-12B-it", "gemma-4-12B-it"),
    ],
)
def test_suggestions(text: str, first: str) -> None:
    assert suggestions(text)[0] == first
    assert suggestions("llama3") == []


@pytest.mark.parametrize(
    ("repository", "bases", "drafters"),
    [
        ("google/gemma-4-E2B-it", (), ["google/gemma-4-E2B-it-assistant"]),
        (
            "google/gemma-4-E2B-it-qat-q4_0-gguf",
            (),
            ["google/gemma-4-E2B-it-qat-q4_0-unquantized-assistant", "google/gemma-4-E2B-it-assistant"],
        ),
        (
            "google/gemma-4-12B-it-qat-q4_0-unquantized",
            (),
            ["google/gemma-4-12B-it-qat-q4_0-unquantized-assistant", "google/gemma-4-12B-it-assistant"],
        ),
        (
            "google/gemma-4-E4B-it-qat-mobile-transformers",
            (),
            ["google/gemma-4-E4B-it-qat-mobile-transformers-assistant", "google/gemma-4-E4B-it-assistant"],
        ),
        (
            "bartowski/google_gemma-4-E2B-it-GGUF",
            (),
            ["bartowski/google_gemma-4-E2B-it-assistant", "google/gemma-4-E2B-it-assistant"],
        ),
        (
            "somebody/tuned-GGUF",
            ("somebody/tuned",),
            ["somebody/tuned-assistant"],
        ),
    ],
)
def test_repositories_of_drafters(repository: str, bases: tuple[str, ...], drafters: list[str]) -> None:
    assert drafter_repositories(repository, bases) == drafters


def test_shapes_by_name() -> None:
    assert shape_of("unsloth/gemma-4-26b-a4b-it-GGUF") == "gemma-4-26B-A4B"
    assert shape_of("x/gemma-4-12b-it") == "gemma-4-12B" and shape_of("x/gemma-4-120B") is None


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("gemma-4-E2B-it-Q4_K_M.gguf", "Q4_K_M"),
        ("gemma-4-E2B_q4_0-it.gguf", "Q4_0"),
        ("gemma-4-E2B-it-qat-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("BF16/gemma-4-31B-it-BF16-00001-of-00002.gguf", "BF16"),
        ("mtp-gemma-4-E2B-it.gguf", ""),
        ("x-IQ4_NL.gguf", "IQ4_NL"),
        ("gemma-4-12b-it-qat-q4_0.gguf", "Q4_0"),
    ],
)
def test_quantizations_by_name(path: str, says: str) -> None:
    assert quantization(path) == says


def files(*paths: str) -> list[RemoteFile]:
    return [RemoteFile(path=path, nbytes=1) for path in paths]


REPOSITORY = files(
    "README.md", "config.json", "gemma-4-E2B-it-Q4_K_M.gguf", "gemma-4-E2B-it-UD-Q4_K_XL.gguf",
    "gemma-4-E2B-it-Q8_0.gguf", "BF16/gemma-4-E2B-it-BF16-00001-of-00002.gguf",
    "BF16/gemma-4-E2B-it-BF16-00002-of-00002.gguf", "mmproj-F16.gguf", "imatrix_unsloth.gguf",
    "mtp-gemma-4-E2B-it.gguf", "MTP/mtp-gemma-4-E2B-it-BF16.gguf", "MTP/mtp-gemma-4-E2B-it-Q8_0.gguf",
)  # fmt: skip


@pytest.mark.parametrize(
    ("tag", "main"),
    [
        ("", "gemma-4-E2B-it-Q4_K_M.gguf"),
        ("q4_k_m", "gemma-4-E2B-it-Q4_K_M.gguf"),
        ("UD-Q4_K_XL", "gemma-4-E2B-it-UD-Q4_K_XL.gguf"),
        ("Q4_K_XL", "gemma-4-E2B-it-UD-Q4_K_XL.gguf"),
        ("BF16", "BF16/gemma-4-E2B-it-BF16-00001-of-00002.gguf"),
        ("gemma-4-E2B-it-Q8_0.gguf", "gemma-4-E2B-it-Q8_0.gguf"),
        ("gemma-4-E2B-it-BF16-00002-of-00002.gguf", "BF16/gemma-4-E2B-it-BF16-00001-of-00002.gguf"),
    ],
)
def test_the_choice_of_a_gguf_file(tag: str, main: str) -> None:
    choice = choose("a/b", REPOSITORY, tag)
    assert choice.main == main and [file.path for file in choice.files] == parts_of(main)
    assert choice.drafter_main == "MTP/mtp-gemma-4-E2B-it-Q8_0.gguf"
    assert ("took Q4_K_M" in choice.note) == (not tag)


def test_a_drafter_can_be_named() -> None:
    choice = choose("a/b", REPOSITORY, "mtp-gemma-4-E2B-it.gguf")
    assert choice.main == "mtp-gemma-4-E2B-it.gguf" and not choice.drafter


@pytest.mark.parametrize(
    ("listed", "tag", "says"),
    [
        (REPOSITORY, "Q5_K_M", r"a/b has no file Q5_K_M\. There are: .*Q8_0"),
        (
            files("x-IQ1_S.gguf", "x-IQ2_S.gguf"),
            "",
            r"2 GGUF models: name one\. There are: IQ1_S, IQ2_S \(as a/b:IQ1_S\)",
        ),
        (files("x-Q4_0.gguf", "y-Q4_0.gguf"), "Q4_0", r"may be any of x-Q4_0\.gguf, y-Q4_0\.gguf"),
        (files("x-00001-of-00003.gguf", "x-00003-of-00003.gguf"), "", r"lacks 1 of the 3 parts of x-00001-of-00003"),
        (files("README.md", "pytorch_model.bin"), "", "no safetensors weights with a config.json, and no GGUF file"),
        (files("config.json", "model.safetensors"), "Q4_0", "no GGUF files"),
        (files("mmproj-F16.gguf"), "", "no model that can be loaded"),
    ],
)
def test_what_no_choice_can_be_made_of(listed: list[RemoteFile], tag: str, says: str) -> None:
    with pytest.raises(ModelNotFoundError, match=says) as error:
        choose("a/b", listed, tag)
    assert isinstance(error.value, AmbiguousNameError) == ("name one" in str(error.value))


def test_the_choice_of_a_directory() -> None:
    listed = files(
        "config.json", "generation_config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "README.md",
        "original/consolidated.safetensors", "assistant/config.json", "assistant/model.safetensors",
        "assistant/notes.txt",
    )  # fmt: skip
    choice = choose("a/b", listed)
    names = {file.path for file in choice.files}
    assert choice.main == "" and "README.md" not in names and "original/consolidated.safetensors" not in names
    assert {"config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja"} < names and len(names) == 8
    assert choice.drafter_main == "assistant"
    assert {file.path for file in choice.drafter} == {"assistant/config.json", "assistant/model.safetensors"}
