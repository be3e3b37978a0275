"""Write the tables of docs/serving-reference.md from the settings and schemas; ``--check`` only verifies them."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from geminate.server.anthropic import schemas as messages
from geminate.server.anthropic import schemas_out as messages_out
from geminate.server.ollama import schemas as ollama
from geminate.server.ollama import schemas_out as ollama_out
from geminate.server.openai import schemas_chat as chat
from geminate.server.openai import schemas_common as common
from geminate.server.openai import schemas_out as out
from geminate.server.openai import schemas_responses as resp
from geminate.server.openai.schemas_common import Unsupported
from geminate.server.settings import rows

PAGE = Path(__file__).resolve().parent.parent / "docs" / "serving-reference.md"
GROUPS = {"model": "Model", "engine": "Engine", "network": "Network and keys", "limits": "Limits", "log": "Log"}


def cell(text: str) -> str:
    """Escape text for a table cell."""
    return text.replace("|", "\\|")


def settings_tables() -> Iterator[str]:
    """Flags, environment variables and TOML keys by group."""
    for group, title in GROUPS.items():
        yield f"**{title}**\n"
        yield "| Flag | Variable, TOML key | Values | Default | Description |\n|---|---|---|---|---|"
        for row in rows():
            if row.group == group:
                kind = (
                    "size"
                    if row.size
                    else {"int": "integer", "float": "number", "str": "text", "bool": "switch"}[row.kind.__name__]
                )
                values = f"{kind}{' list' if row.several else ''}" + (f" {row.legal}" if row.legal else "")
                yield (
                    f"| `{row.flag}` | `{row.env}`, `{row.name}` | {cell(values)} | {cell(row.default)} | "
                    f"{cell(row.help)} |"
                )
        yield ""


def type_name(hint: Any) -> str:
    """A type in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return type_name(args[0])
    if origin in (typing.Union, types.UnionType):
        names = dict.fromkeys(type_name(arg) for arg in args if arg is not type(None))
        return " or ".join(names) or "null"
    if origin is typing.Literal:
        return ", ".join(f"`{arg}`" if isinstance(arg, str) else str(arg).lower() for arg in args)
    if origin is list:
        return f"list of {type_name(args[0])}"
    if origin is dict:
        return f"object of {type_name(args[1])}"
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    names = {str: "text", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    return names.get(hint, "any")


def limits(field: FieldInfo) -> str:
    """The bounds of a number."""
    found = {name: getattr(m, name) for m in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(m, name)}
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    big = {2**31 - 1: "2³¹-1", 2**63 - 1: "2⁶³-1"}
    return " ".join(f"{signs[name]} {big.get(value, value)}" for name, value in found.items())


def model_table(model: type[BaseModel], skip: type[BaseModel] | None = None) -> Iterator[str]:
    """The fields of a model; fields that only accept null are listed on one line."""
    hints = typing.get_type_hints(model, include_extras=True)
    refused = [name for name in model.model_fields if hints[name] is Unsupported]
    inherited = set(skip.model_fields) if skip else set()
    yield "| Field | Type | Description |\n|---|---|---|"
    for name, field in model.model_fields.items():
        if name in refused or name in inherited:
            continue
        mark = "" if not field.is_required() or issubclass(model, out.Out) else " **required**"
        about = " ".join(part for part in (type_name(hints[name]), limits(field)) if part)
        yield f"| `{field.alias or name}`{mark} | {cell(about)} | {cell(field.description or '')} |"
    if refused:
        yield f"\nRejected unless null: {', '.join(f'`{name}`' for name in refused)}."
    yield ""


def section(model: type[BaseModel], skip: type[BaseModel] | None = None) -> Iterator[str]:
    """A model with its title, docstring and fields."""
    yield f"#### {model.__name__}\n"
    yield f"{' '.join((model.__doc__ or '').split()).replace('``', '`')}\n"
    yield from model_table(model, skip)


def parts(models: list[type[BaseModel]]) -> Iterator[str]:
    """The sections of several models."""
    for model in models:
        yield from section(model)


TABLES: dict[str, Iterator[str]] = {
    "settings": settings_tables(),
    "sampling": model_table(common.Sampling),
    "chat": section(chat.ChatRequest, common.Sampling),
    "chat-parts": parts([
        chat.SystemMessage, chat.UserMessage, chat.AssistantMessage, chat.ToolMessage, chat.TextPart, chat.ToolCall,
        chat.CalledFunction, chat.ChatTool, common.FunctionSpec, chat.NamedChoice, chat.ChosenFunction,
        common.TextFormat, common.JsonObjectFormat, chat.JsonSchemaFormat, common.JsonSchemaSpec, common.RegexFormat,
        common.GrammarFormat, common.StreamOptions, common.TemplateOptions,
    ]),
    "completions": section(chat.CompletionRequest, common.Sampling),
    "responses": section(resp.ResponseRequest, common.Sampling),
    "responses-parts": parts([
        resp.MessageItem, resp.InputText, resp.OutputText, resp.FunctionCallItem, resp.FunctionOutputItem,
        resp.ReasoningItem, resp.ReasoningText, resp.ItemReference, resp.ResponseTool, resp.NamedFunction,
        resp.TextOptions, resp.ResponseJsonSchema, resp.ReasoningOptions,
    ]),
    "messages": section(messages.MessagesRequest, common.Sampling),
    "messages-parts": parts([
        messages.CountRequest, messages.UserTurn, messages.AssistantTurn, messages.TextBlock, messages.ToolResultBlock,
        messages.ThinkingBlock, messages.RedactedThinkingBlock, messages.ToolUseBlock, messages.MessagesTool,
        messages.AutoChoice, messages.AnyChoice, messages.OneChoice, messages.NoChoice, messages.ThinkingOn,
        messages.ThinkingOff, messages.OutputConfig, messages.OutputFormat, messages_out.MessageObject,
        messages_out.MessageUsage, messages_out.TokenCount, messages_out.AnthropicErrorBody,
        messages_out.AnthropicError,
    ]),
    "ollama": parts([
        ollama.OllamaChatRequest, ollama.GenerateRequest, ollama.Options, ollama.OllamaMessage, ollama.OllamaCall,
        ollama.OllamaFunction, ollama.OllamaTool, ollama.ShowRequest, ollama_out.OllamaChatAnswer,
        ollama_out.OllamaText, ollama_out.OllamaTags, ollama_out.OllamaTag, ollama_out.OllamaDetails,
        ollama_out.OllamaProcesses, ollama_out.OllamaRunning, ollama_out.OllamaModel, ollama_out.OllamaVersion,
        ollama_out.OllamaErrorBody,
    ]),
    "tokenize": parts([chat.TokenizeRequest, chat.DetokenizeRequest]),
    "response-bodies": parts([
        out.ChatCompletion, out.ChatChoice, out.ChatMessage, out.OutToolCall, out.OutFunction, out.ChatLogprobs,
        out.TokenLogprob, out.TopLogprob, out.Completion, out.CompletionChoice, out.CompletionLogprobsOut,
        out.ResponseObject, out.ResponseUsage, out.Usage, out.CachedTokens, out.ReasoningTokens, out.Timings, out.Trace,
        out.Round, out.TracedToken, out.ModelList, out.ModelCard, out.ModelFacts, out.Tokens, out.DetokenizedText,
        out.ErrorBody, out.ErrorDetail,
    ]),
}  # fmt: skip


def written(text: str) -> str:
    """The page with its tables replaced.

    Raises:
        ValueError: the page has no markers for a table.
    """
    for name, lines in TABLES.items():
        begin, end = f"<!-- table: {name} -->\n", f"<!-- end: {name} -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{PAGE.name} has no markers for the table {name!r}")
        body = "\n".join(lines).strip("\n")
        text = f"{head}{begin}\n{body}\n\n{end}{tail}"
    return text


def main() -> int:
    """Write the page, or with ``--check`` return exit code 1 if it is out of date."""
    before = PAGE.read_text(encoding="utf-8")
    after = written(before)
    if "--check" in sys.argv[1:]:
        if before != after:
            print("docs/serving-reference.md is out of date: run scripts/serving_docs.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
