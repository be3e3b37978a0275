"""Response formats and tool choices as grammars for constrained decoding."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.types import Receive

from geminate.errors import GeminateError, TemplateTimeoutError
from geminate.grammar.compiler import (
    Grammar,
    GrammarSpec,
    JsonObject,
    JsonSchema,
    Lark,
    Reasoning,
    Regex,
    TextSpec,
    ToolCalls,
)
from geminate.server.http.errors import ApiError, bad_request, from_geminate
from geminate.server.http.logs import RequestContext
from geminate.server.openai.conversation import template_tools
from geminate.server.openai.generation import INLINE_CHARS, in_thread, until_gone
from geminate.server.openai.schemas_chat import JsonSchemaFormat
from geminate.server.openai.schemas_common import FunctionSpec, GrammarFormat, JsonObjectFormat, RegexFormat, TextFormat
from geminate.server.openai.schemas_responses import ResponseJsonSchema
from geminate.server.state import Model, ServerState
from geminate.text.reply import open_thought

INLINE_MESSAGES = 100  # of a conversation that is rendered in the event loop
_compiling = ThreadPoolExecutor(8, thread_name_prefix="grammar")  # they wait; apart, so that prompts are encoded
INLINE_SECONDS = 0.02  # of a template there; a thread would cost more than most take

Format = TextFormat | JsonObjectFormat | JsonSchemaFormat | ResponseJsonSchema | RegexFormat | GrammarFormat


@dataclass(frozen=True, kw_only=True)
class Tools:
    """The tools the model may call; ``offered`` is empty if it may call none."""

    offered: list[FunctionSpec]
    required: bool
    parallel: bool

    @property
    def declarations(self) -> list[dict[str, Any]] | None:
        """The tool declarations for the chat template, or None."""
        return template_tools(self.offered)


def choose_tools(functions: list[FunctionSpec], choice: str | None, named: str | None, parallel: bool | None) -> Tools:
    """Apply ``tool_choice``: ``none`` hides all tools from the model, a function's name all others.

    Raises:
        ApiError: a tool choice without tools, or naming a tool that is not among them.
    """
    if not functions and (choice in ("auto", "required") or named is not None):
        raise bad_request("tool_choice needs tools", "tool_choice")
    if not functions and parallel is not None:
        raise bad_request("parallel_tool_calls needs tools", "parallel_tool_calls")
    if named is not None:
        chosen = [f for f in functions if f.name == named]
        if not chosen:
            raise bad_request(f"tool_choice names {named[:100]!r}, which is not one of the tools", "tool_choice")
        return Tools(offered=chosen, required=True, parallel=False)
    offered = [] if choice == "none" else functions
    return Tools(offered=offered, required=choice == "required", parallel=parallel is not False)


def grammar_spec(form: Format | None, tools: Tools) -> GrammarSpec | None:
    """The grammar that constrains the completion, or None.

    With tools and a response format a completion is either calls and nothing else, or text in that format.
    """
    answer = _text_spec(form)
    if not tools.offered:
        return answer
    return ToolCalls(
        tools=[(f.name, f.parameters or None) for f in tools.offered],
        required=tools.required,
        parallel=tools.parallel,
        strict=[f.name for f in tools.offered if f.strict],
        answer=answer,
    )


def _text_spec(form: Format | None) -> TextSpec | None:
    if isinstance(form, JsonObjectFormat):
        return JsonObject()
    if isinstance(form, JsonSchemaFormat):
        return JsonSchema(form.json_schema.schema_)
    if isinstance(form, ResponseJsonSchema):
        return JsonSchema(form.schema_)
    if isinstance(form, RegexFormat):
        return Regex(form.regex)
    if isinstance(form, GrammarFormat):
        return Lark(form.grammar)
    return None


async def compile_grammar(
    model: Model,
    spec: GrammarSpec | None,
    receive: Receive,
    *,
    context: RequestContext,
    reasoning: Reasoning,
    field: str,
) -> Grammar | None:
    """Compile a grammar; a client whose grammars have taken much of the interpreter lately waits.

    Raises:
        ApiError: the grammar is invalid, not supported, or takes too long to compile; or too many others do.
        ClientGone: nobody waits for it any more.
    """
    if spec is None:
        return None
    gone = threading.Event()

    def timed(spec: GrammarSpec) -> tuple[Grammar, float]:
        began = time.thread_time()  # the compilation itself runs in another process
        return model.compiler.compile(spec, reasoning=reasoning, cancelled=gone), time.thread_time() - began

    async def work(spec: GrammarSpec) -> Grammar:
        grammar, seconds = await asyncio.get_running_loop().run_in_executor(_compiling, timed, spec)
        await context.costs.used(context.client, seconds)
        return grammar

    async def compiled(spec: GrammarSpec, name: str) -> Grammar:
        try:
            return await until_gone(receive, work(spec), gone.set)
        except GeminateError as error:
            refused = from_geminate(error)
            refused.param = name
            raise refused from error

    if not isinstance(spec, ToolCalls):
        return await compiled(spec, field)
    try:
        return await compiled(spec, "tools")
    except ApiError as error:
        if error.status == 400 and spec.answer is not None:
            await compiled(spec.answer, field)  # names the format if that is at fault
        raise


async def prompt_and_grammar(
    state: ServerState,
    model: Model,
    context: RequestContext,
    messages: list[dict[str, Any]],
    tools: Tools,
    spec: GrammarSpec | None,
    receive: Receive,
    *,
    thinking: bool | None,
    messages_field: str,
    format_field: str,
    add_generation_prompt: bool | None = None,
    continue_final_message: bool = False,
) -> tuple[list[int], Grammar | None]:
    """Token ids of a conversation and the compiled grammar for its completion; logs the prompt with ``log_prompts``.

    Raises:
        ApiError: the chat template or the grammar compiler rejects the request; names the field.
    """
    characters = sum(len(message["content"]) for message in messages)
    model.check_length(characters, messages_field, messages=len(messages))
    heavy = characters > INLINE_CHARS or len(messages) > INLINE_MESSAGES or bool(tools.offered)
    render = partial(
        model.llm.chat_ids,
        messages,
        tools=tools.declarations,
        enable_thinking=thinking,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
    )
    prompt = await _rendered(model, render, heavy=heavy, param=messages_field)
    begun = open_thought(model.tokenizer, prompt) is not None
    reasoning: Reasoning = "open" if begun else bool(thinking)
    grammar = await compile_grammar(model, spec, receive, context=context, reasoning=reasoning, field=format_field)
    if state.settings.log_prompts:
        context.fields["messages"] = messages
    return prompt, grammar


async def _rendered(model: Model, ids: Callable[..., list[int]], *, heavy: bool, param: str) -> list[int]:
    """Token ids of a conversation; a template that takes long once is rendered in a thread from then on."""

    def quick() -> list[int] | None:
        try:
            return ids(seconds=INLINE_SECONDS)
        except TemplateTimeoutError:
            model.slow_template = True
            return None

    if not heavy and not model.slow_template:
        found = await in_thread(False, quick, param=param)
        if found is not None:
            return found
    return await in_thread(True, ids, param=param)


def thinking_wanted(effort: str | None, switch: bool | None, field: str) -> bool | None:
    """Whether thinking is on, from the effort or the template's switch; None leaves it to the template.

    Raises:
        ApiError: the two contradict each other.
    """
    by_effort = None if effort is None else effort not in ("none", "minimal")
    if by_effort is not None and switch is not None and by_effort != switch:
        raise bad_request(f"{field} and chat_template_kwargs.enable_thinking contradict each other", field)
    return switch if by_effort is None else by_effort
