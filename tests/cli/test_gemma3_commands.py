"""The commands on a Gemma 3 directory: a pair with tokenizer and chat template as such checkpoints have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from geminate import LLM
from support.cli import geminate, refused
from support.fabricate_gemma3 import make_drafter, make_target, published
from support.tiny_tokenizer import GEMMA3_SPECIALS, backend

# Gemma 3's turns: no system role of its own, the text goes before the first user's.
TEMPLATE = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first = messages[0]['content'] + '\n\n' -%}{%- set rest = messages[1:] -%}
{%- else -%}
    {%- set first = '' -%}{%- set rest = messages -%}
{%- endif -%}
{%- for m in rest -%}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('roles must alternate') }}{%- endif -%}
    {{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}
    {{- first if loop.first else '' }}
    {{- m['content'] | trim + '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 4B layout, nested and with a vision tower, in published field names; its drafter beside it."""
    root = tmp_path_factory.mktemp("gemma3-cli")
    where = published("4B", make_target("4B", root / "saved"), root / "4B")
    make_drafter("4B", root / "4B-assistant")
    backend(GEMMA3_SPECIALS).save(str(where / "tokenizer.json"))
    (where / "tokenizer_config.json").write_text(
        json.dumps({
            "add_bos_token": True, "bos_token": "<bos>", "eos_token": "<eos>", "chat_template": TEMPLATE,
            "tokenizer_class": "GemmaTokenizer", "clean_up_tokenization_spaces": False,
        })
    )  # fmt: skip
    (where / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5], "top_k": 64, "top_p": 0.95}))
    return where


def test_info(pair: Path) -> None:
    body = json.loads(geminate("info", str(pair), "--json").stdout)
    assert body["model_type"] == "gemma3" and body["layers"] == {"total": 8, "sliding": 7, "full": 1, "kv_shared": 0}
    assert body["drafter"]["layers"] == 3 and body["sliding_window"] == 24 and body["chat_template"] is True
    assert body["on_disk_only"] == {"row_table": 0} and body["skipped"]["vision and audio towers"][0] > 5


def test_verify(pair: Path) -> None:
    done = geminate("verify", str(pair), "--json", "-n", "24", "--limit", "2", timeout=600)
    assert done.returncode == 0 and json.loads(done.stdout)["identical"] is True


def test_generate_and_chat(pair: Path) -> None:
    texts = {
        geminate("generate", "the world", "--model", str(pair), "-n", "24", "--seed", "3", "-k", k).stdout
        for k in ("off", "4", "auto")
    }
    assert len(texts) == 1 and texts.pop().strip()
    done = geminate("chat", "--model", str(pair), "-n", "8", "--system", "Be kind.", stdin=b"Hello\nand?\n/exit\n")
    assert done.returncode == 0, done.stderr


def test_ids_of_a_chat_are_transformers_ids(pair: Path) -> None:
    llm = LLM(pair, drafter=None)
    theirs = AutoTokenizer.from_pretrained(pair)
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello the öé 👩‍👧 world"}]
    ours = llm.chat_ids(messages)
    assert theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == ours
    assert ours[0] == 2 and ours.count(4) == 2 and ours.count(5) == 1, "turn marks are single tokens"
    assert llm.config.eos_token_ids == (1, 5) and llm.config.generation.top_k == 64
    assert llm.tokenizer is not None and "Hello the öé 👩‍👧 world" in llm.tokenizer.decode(ours)


def test_bench_step_of_a_directory(pair: Path) -> None:
    done = geminate("bench", "step", "--shape", str(pair), "--rows", "1,4", "--repeats", "3", "--json")
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout.splitlines()[-1])
    assert body["layers"] == body["of_layers"] == 8 and body["draft_step_ms"] > 0 and body["weight_bytes"] > 0
    some = geminate("bench", "step", "--shape", str(pair), "--layers", "6", "--rows", "1", "--repeats", "3", "--json")
    assert json.loads(some.stdout.splitlines()[-1])["layers"] == 6
    refused("bench", "step", "--shape", str(pair), "--layers", "7", says="multiple of 6 up to 8")


def test_a_target_with_sliding_layers_alone(tmp_path: Path) -> None:
    """No full layer: nothing for the drafter's full layer to read, and one block to measure."""
    kinds = ["sliding_attention"] * 3
    where = make_target("1B", tmp_path / "short", num_hidden_layers=3, layer_types=kinds)
    drafter = make_drafter("1B", tmp_path / "d")
    refused("info", str(where), "--drafter", str(drafter), says="the target has no full_attention layer to read from")
    done = geminate("bench", "step", "--shape", str(where), "--rows", "1", "--repeats", "3", "--json")
    assert done.returncode == 0 and json.loads(done.stdout.splitlines()[-1])["layers"] == 3
    assert geminate("verify", str(where), "--json", "-n", "12").returncode == 0
