"""``geminate generate``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from geminate.cli.console import fail, read_stdin, say, user_errors, write, write_json
from geminate.cli.figures import stats_json, summary
from geminate.cli.flags import SAMPLING, SpeculationOpt, loading, options, sampling
from geminate.cli.model import load
from geminate.llm import LLM
from geminate.loading.locate import is_model
from geminate.loading.options import LoadOptions
from geminate.output import Output
from geminate.params import SamplingParams, parse_speculation

LOADING = loading("model", "drafter", "weights", "threads", "rope_position", "use_cache", "check", "prefault")
PARAMS = sampling("max_tokens", *SAMPLING, "stop", "ignore_eos", "logprobs")


@options(LOADING, PARAMS)
@user_errors()
def generate(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL] [PROMPT]", help="Text to continue; - or nothing reads standard input."),
    ] = None,
    speculation: SpeculationOpt = "auto",
    json_out: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    **given: Any,
) -> None:
    """Continue a text, streamed to stdout; figures go to stderr."""
    loaded, params = LOADING.take(given), PARAMS.take(given)
    if params.logprobs is not None and not json_out:
        fail("--logprobs needs --json: there is no place for them in plain text")
    parse_speculation(speculation)
    chosen, prompt = _model_and_prompt(words or [], loaded.model)
    text = read_stdin() if prompt in (None, "-") else str(prompt)
    llm = load(LoadOptions(**vars(loaded) | {"model": chosen}))
    if json_out:
        write_json(_body(llm.generate(text, params, speculation=speculation)[0], params))
    else:
        _show(llm, text, params, speculation)


def _model_and_prompt(words: list[str], model: Any) -> tuple[Any, str | None]:
    """``MODEL PROMPT``, or one of them: a single word is a model if it is one on disk."""
    if len(words) > 2 or (len(words) == 2 and model is not None):
        fail(f"expected a model and a prompt, got {len(words) + (model is not None)} texts; quote the prompt")
    if len(words) == 2:
        return words[0], words[1]
    if len(words) == 1 and model is None and is_model(words[0]):
        return words[0], None
    return model, words[0] if words else None


def _body(out: Output, params: SamplingParams) -> dict[str, Any]:
    body: dict[str, Any] = {
        "text": out.text,
        "token_ids": out.token_ids,
        "finish_reason": out.finish_reason,
        "seed": out.seed,
        "stats": stats_json(out),
    }
    if params.logprobs is not None:
        body["logprobs"] = [
            {"token": lp.token, "logprob": lp.logprob, "top": [list(t) for t in lp.top]} for lp in out.logprobs
        ]
    return body


def _show(llm: LLM, text: str, params: SamplingParams, speculation: str) -> None:
    for delta in llm.stream(text, params, speculation=speculation):
        write(delta.text)
        if delta.output is not None:
            write("\n")
            say(summary(delta.output))
