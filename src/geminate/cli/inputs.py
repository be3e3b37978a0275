"""What ``geminate generate`` is asked: model and prompt from words, files and standard input, and grammars."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from geminate.cli.console import fail, read_stdin, read_text
from geminate.grammar.compiler import GrammarSpec, JsonSchema, Lark, Regex
from geminate.loading.locate import is_model

NO_PROMPT = "no prompt: give a text, -f FILE, or pipe one in (geminate generate [MODEL] PROMPT)"


def model_and_prompt(words: list[str], model: str | None, file: str | None) -> tuple[str | None, str]:
    """The model's name and the prompt's text.

    Args:
        words: ``MODEL PROMPT``, or one of them: a single word is a model if it is one on disk and the prompt comes from
            elsewhere, else a prompt. ``-`` is standard input.
        model: of ``--model``. file: of ``--file``, ``-`` for standard input; it follows a prompt after a blank line.
    """
    if len(words) > 2 or (len(words) == 2 and model is not None):
        fail(f"expected a model and a prompt, got {len(words) + (model is not None)} texts; quote the prompt")
    prompt = words[-1] if words else None
    if len(words) == 2:
        model = words[0]
    elif prompt is not None and model is None and is_model(prompt):
        model, prompt = prompt, None
        if file is None and sys.stdin.isatty():
            fail(f"{model} is a model: add the prompt (geminate generate {model} PROMPT), -f FILE, or pipe one in")
    if prompt == "-" and file == "-":
        fail("the prompt and --file both name standard input")
    if prompt is None and file is None:
        if sys.stdin.isatty():
            fail(NO_PROMPT)
        prompt = "-"
    parts = [piped() if prompt == "-" else prompt] if prompt is not None else []
    if file is not None:
        parts.append(piped() if file == "-" else _without_end(read_text(Path(file).expanduser())))
    return model, "\n\n".join(parts)


def piped() -> str:
    """Standard input without the newline that ends it: ``echo`` adds one that nobody means."""
    return _without_end(read_stdin())


def _without_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def grammar_of(json_schema: str | None, regex: str | None, grammar: str | None) -> GrammarSpec | None:
    """The grammar that was asked for, if any; schemas and grammars are texts or files."""
    named = (("--json-schema", json_schema), ("--regex", regex), ("--grammar", grammar))
    given = [name for name, value in named if value is not None]
    for name, value in named:
        if value == "":
            fail(f"{name} is empty, so nothing would be enforced; leave it out, or check where its text comes from")
    if len(given) > 1:
        fail(f"{' and '.join(given)} do not go together: name one")
    if regex:
        return Regex(regex)
    if grammar:
        return Lark(_text_or_file(grammar, is_text="\n" in grammar or ":" in grammar))
    if not json_schema:
        return None
    text = _text_or_file(json_schema, is_text=json_schema.lstrip().startswith("{"))
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        fail(f"--json-schema is no JSON: {error}")
    if not isinstance(schema, dict):
        fail(f"--json-schema must be a JSON object, not a {type(schema).__name__}")
    return JsonSchema(schema)


def _text_or_file(value: str, *, is_text: bool) -> str:
    return value if is_text else read_text(Path(value).expanduser())
