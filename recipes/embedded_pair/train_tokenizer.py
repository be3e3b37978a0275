"""Train the 8,192-token byte-fallback BPE of the embedded pair, with Gemma 4's special-token strings and ids.

Usage: python recipes/embedded_pair/train_tokenizer.py --corpus DIR --out DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

VOCAB_SIZE = 8192
NAMED = {
    0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 46: "<|tool>", 47: "<tool|>", 48: "<|tool_call>",
    49: "<tool_call|>", 50: "<|tool_response>", 51: "<tool_response|>", 52: '<|"|>', 98: "<|think|>",
    100: "<|channel>", 101: "<channel|>", 105: "<|turn>", 106: "<turn|>",
}  # fmt: skip
SPECIALS = [NAMED.get(i, f"<unused{i}>") for i in range(107)]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
# Words keep the space before them, digits stand alone, runs of spaces and newlines are pieces.
PIECES = r"▁?[^\W\d_]+|\d|▁+|\n+|▁?[^\w▁\n]+|_+"
TEMPLATE = """\
{%- macro text_of(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}{%- for part in content -%}{{ part['text'] }}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- macro argument(value) -%}
{%- if value is string -%}<|"|>{{ value }}<|"|>
{%- else -%}{{ value | tojson }}{%- endif -%}
{%- endmacro -%}
{%- macro declaration(tool) -%}
{%- set f = tool['function'] if 'function' in tool else tool -%}
<|tool>declaration:{{ f['name'] }}{description:<|"|>{{ f['description'] }}<|"|>,parameters:{properties:{
{%- for key, value in f['parameters']['properties'].items() -%}
{%- if not loop.first %},{% endif -%}
{{ key }}:{ {%- if value['description'] -%}description:<|"|>{{ value['description'] }}<|"|>,{%- endif -%}
type:<|"|>{{ value['type'] | upper }}<|"|>}
{%- endfor -%}
}{%- if f['parameters']['required'] -%},required:[
{%- for key in f['parameters']['required'] -%}
{%- if not loop.first %},{% endif -%}<|"|>{{ key }}<|"|>{%- endfor -%}]
{%- endif -%},type:<|"|>OBJECT<|"|>}}<tool|>
{%- endmacro -%}
{{- bos_token -}}
{%- set first = messages[0]['role'] if messages else '' -%}
{%- set has_system = first in ['system', 'developer'] -%}
{%- if has_system or tools or enable_thinking -%}
<|turn>system
{% if enable_thinking %}<|think|>
{% endif -%}
{%- if has_system -%}{{ text_of(messages[0]['content']) | trim }}{%- endif -%}
{%- for tool in tools or [] -%}{{ declaration(tool) }}{%- endfor -%}
<turn|>
{% endif -%}
{%- for message in (messages[1:] if has_system else messages) -%}
{%- if message['role'] == 'tool' -%}
<|tool_response>response:{{ message['name'] }}{value:{{ argument(message['content']) }}}<tool_response|>
{%- else -%}
<|turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}
{% if message['content'] -%}
{%- set body = text_of(message['content']) -%}
{%- if message['role'] == 'assistant' and '<channel|>' in body -%}
{%- set body = body.split('<channel|>')[-1] -%}
{%- endif -%}
{{ body | trim }}
{%- endif -%}
{%- for call in message['tool_calls'] or [] -%}
{%- set f = call['function'] -%}
<|tool_call>call:{{ f['name'] }}{
{%- for key, value in f['arguments'].items() -%}
{%- if not loop.first %},{% endif -%}{{ key }}:{{ argument(value) }}{%- endfor -%}}<tool_call|>
{%- endfor -%}
<turn|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|turn>model
{% endif -%}
"""


def texts(path: Path, every: int) -> Iterator[str]:
    """Every n-th document, special-token strings taken out so that they do not become merges."""
    with path.open() as lines:
        for i, line in enumerate(lines):
            if i % every == 0:
                text = json.loads(line)
                for special in NAMED.values():
                    text = text.replace(special, "\n")
                yield text


def main() -> int:
    """Train, test the round trip, write tokenizer.json, tokenizer_config.json, chat_template.jinja."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("build/embedded_pair/corpus"))
    parser.add_argument("--out", type=Path, default=Path("build/embedded_pair/tokenizer"))
    parser.add_argument("--every", type=int, default=2, help="train on every n-th document")
    args = parser.parse_args()
    train = args.corpus / "train.jsonl"
    if not train.exists():
        print(f"missing: {train}; run prepare_corpus.py first", file=sys.stderr)
        return 2
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIALS + BYTES,
        limit_alphabet=200,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(train, args.every), trainer)
    state = json.loads(tokenizer.to_str())
    # Byte tokens took part as specials only to get their ids; they are ordinary vocabulary.
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in SPECIALS]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False, "model_max_length": 2048,
    }  # fmt: skip
    (args.out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (args.out / "chat_template.jinja").write_text(TEMPLATE)
    back = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    assert back.get_vocab_size() == VOCAB_SIZE, back.get_vocab_size()
    for text in ("Hello  world", "naïve café 👩‍👩‍👧 日本語 e\u0301", "\tdef f():\n    return 1\n", " lead"):
        ids = back.encode(text).ids
        assert back.decode(ids, skip_special_tokens=False) == text, text
    sample = "".join(texts(args.corpus / "held_out.jsonl", 1))
    count = len(back.encode(sample).ids)
    print(f"{VOCAB_SIZE} tokens, {len(sample.encode()) / count:.2f} bytes a token on held-out text")
    return 0


if __name__ == "__main__":
    sys.exit(main())
