"""What ``geminate generate`` is asked: model and prompt from words, files and standard input, and grammars."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from geminate.cli.console import MAX_PROMPT, fail, read_stdin, read_text
from geminate.errors import kind_of
from geminate.grammar.precheck import check_spec
from geminate.grammar.specs import JsonSchema, Lark, Regex, TextSpec
from geminate.loading.locate import is_model

NO_PROMPT = "no prompt: give a text, -f FILE, or pipe one in (geminate generate [MODEL] PROMPT)"


def model_and_prompt(
    words: list[str], model: str | None, file: str | None, option: str | None = None
) -> tuple[str | None, str]:
    """The model's name and the prompt's text.

    Args:
        words: ``MODEL PROMPT``, or one of them: a single word is a model if it is one on disk and the prompt comes from
            elsewhere, else a prompt. ``-`` is standard input.
        model: of ``--model``. file: of ``--file``, ``-`` for standard input; it follows a prompt after a blank line.
        option: the prompt of ``--prompt``; the one word beside it is the model.
    """
    prompt: str | None = option
    if option is not None:
        if len(words) > 1 or (words and model is not None):
            fail(f"the prompt is given twice: {words[-1]!r} and --prompt {option!r}")
        model = words[0] if words else model
    else:
        model, prompt = _from_words(words, model, file)
    if prompt == "-" and file == "-":
        fail("the prompt and --file both name standard input")
    if prompt is None and file is None:
        if sys.stdin.isatty():
            fail(NO_PROMPT)
        prompt = "-"
    parts = [piped() if prompt == "-" else prompt] if prompt is not None else []
    if file is not None:
        parts.append(piped() if file == "-" else _without_end(read_text(Path(file).expanduser(), MAX_PROMPT)))
    return model, "\n\n".join(parts)


def _from_words(words: list[str], model: str | None, file: str | None) -> tuple[str | None, str | None]:
    if len(words) > 2 or (len(words) == 2 and model is not None):
        fail(f"expected a model and a prompt, got {len(words) + (model is not None)} texts; quote the prompt")
    if len(words) == 2:
        return words[0], words[1]
    prompt = words[0] if words else None
    if prompt is None or model is not None or not is_model(prompt):
        return model, prompt
    if file is None and sys.stdin.isatty():
        fail(f"{prompt} is a model: add the prompt (geminate generate {prompt} PROMPT), -f FILE, or pipe one in")
    return prompt, None


def piped() -> str:
    """Standard input without the newline that ends it: ``echo`` adds one that nobody means."""
    return _without_end(read_stdin())


def _without_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def grammar_of(json_schema: str | None, regex: str | None, grammar: str | None) -> TextSpec | None:
    """The grammar that was asked for, if any; schemas and grammars are texts or files.

    Raises:
        ParameterError: one that is wrong whatever the model.
    """
    named = (("--json-schema", json_schema), ("--regex", regex), ("--grammar", grammar))
    given = [name for name, value in named if value is not None]
    for name, value in named:
        if value == "":
            fail(f"{name} is empty, so nothing would be enforced; leave it out, or check where its text comes from")
    if len(given) > 1:
        fail(f"{' and '.join(given)} do not go together: name one")
    spec: TextSpec | None = None
    if regex:
        spec = Regex(regex)
    elif grammar:
        spec = Lark(_text_or_file(grammar, is_text="\n" in grammar or ":" in grammar))
    elif json_schema:
        spec = JsonSchema(_schema(json_schema))
    if spec is not None:
        check_spec(spec)
    return spec


def _schema(given: str) -> dict[str, Any]:
    bare = given.strip()
    text = _text_or_file(given, is_text=bare.startswith(("{", "[", '"')) or bare in ("null", "true", "false"))
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        fail(f"--json-schema is no JSON: {error}")
    if not isinstance(schema, dict):
        fail(f"--json-schema must be a JSON object, not {kind_of(schema)}")
    return schema


def _text_or_file(value: str, *, is_text: bool) -> str:
    return value if is_text else read_text(Path(value).expanduser(), MAX_PROMPT)
