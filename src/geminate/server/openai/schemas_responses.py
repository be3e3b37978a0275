"""Requests of ``/v1/responses``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from geminate.params import MAX_LOGPROBS
from geminate.server.openai.schemas_common import (
    Effort,
    FunctionSpec,
    GrammarFormat,
    JsonObjectFormat,
    JsonSchemaSpec,
    RegexFormat,
    Sampling,
    StreamOptions,
    Strict,
    TextFormat,
    Unsupported,
)

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Strict):
    """A piece of what is said to the model."""

    type: Literal["input_text"]
    text: str = Field(description="The text.")


class OutputText(Strict):
    """A piece of an earlier answer."""

    type: Literal["output_text"]
    text: str = Field(description="The text.")
    annotations: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Only an empty list.")
    logprobs: list[Any] | None = Field(None, description="As the answer had them; not read.")


Part = Annotated[InputText | OutputText, Field(discriminator="type")]


class MessageItem(Strict):
    """A message."""

    type: Literal["message"] | None = Field(None, description="May be left out.")
    role: Literal["system", "developer", "user", "assistant"] = Field(description="Who says it.")
    content: str | list[Part] = Field(description="The text.")
    id: str | None = Field(None, description="Of an earlier answer's item; not needed.")
    status: Status | None = Field(None, description="Of an earlier answer's item; not needed.")
    phase: Unsupported = None


class FunctionCallItem(Strict):
    """A call of an earlier answer."""

    type: Literal["function_call"]
    call_id: str = Field(description="As the answer gave it.")
    name: str = Field(min_length=1, max_length=64, description="Of the function.")
    arguments: str = Field(description="A JSON object as text.")
    id: str | None = Field(None, description="Of an earlier answer's item; not needed.")
    status: Status | None = Field(None, description="Of an earlier answer's item; not needed.")


class FunctionOutputItem(Strict):
    """What a function returned."""

    type: Literal["function_call_output"]
    call_id: str = Field(description="Of the call it answers.")
    output: str | list[InputText] = Field(description="The result as text.")
    id: str | None = Field(None, description="Not needed.")
    status: Status | None = Field(None, description="Not needed.")


class ReasoningText(Strict):
    """A thought."""

    type: Literal["reasoning_text"]
    text: str = Field(description="The text.")


class ReasoningItem(Strict):
    """Thoughts of an earlier answer; the chat template leaves most out."""

    type: Literal["reasoning"]
    id: str | None = Field(None, description="Of an earlier answer's item; not needed.")
    summary: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Only an empty list.")
    content: list[ReasoningText] | None = Field(None, description="The thoughts.")
    status: Status | None = Field(None, description="Of an earlier answer's item; not needed.")
    encrypted_content: Unsupported = None


def _item_type(item: Any) -> str | None:
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return "message" if kind is None else kind if isinstance(kind, str) else None


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_item_type),
]


class ResponseTool(FunctionSpec):
    """A tool; functions are the only kind."""

    type: Literal["function"]


class NamedFunction(Strict):
    """The function that must be called."""

    type: Literal["function"]
    name: str = Field(description="One of the tools.")


class ResponseJsonSchema(JsonSchemaSpec):
    """JSON of a schema."""

    type: Literal["json_schema"]


class TextOptions(Strict):
    """How the text of the answer must look."""

    format: (
        Annotated[
            TextFormat | JsonObjectFormat | ResponseJsonSchema | RegexFormat | GrammarFormat,
            Field(discriminator="type"),
        ]
        | None
    ) = Field(None, description="What the answer must look like.")
    verbosity: Unsupported = None


class ReasoningOptions(Strict):
    """Thinking."""

    effort: Effort | None = Field(None, description="none and minimal switch thinking off, the others on.")
    summary: Unsupported = None
    generate_summary: Unsupported = None


class ResponseRequest(Sampling):
    """Body of ``POST /v1/responses``. Nothing is stored: a conversation is sent whole each time."""

    model: str = Field(description="The served model's id, or an alias of it.")
    input: str | Annotated[list[Item], Field(min_length=1)] = Field(description="A text, or items.")
    instructions: str | None = Field(None, description="Goes before everything as a system message.")
    max_output_tokens: int | None = Field(None, ge=1, le=2**31 - 1, description="Most tokens of the answer.")
    stream: bool | None = Field(None, description="Send events as the answer comes.")
    stream_options: StreamOptions | None = Field(None, description="Only with stream.")
    tools: list[ResponseTool] | None = Field(None, max_length=128, description="Functions the model may call.")
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = Field(
        None, description="Whether to call; default auto with tools."
    )
    parallel_tool_calls: bool | None = Field(None, description="Whether several calls may be made; default true.")
    text: TextOptions | None = Field(None, description="How the text must look.")
    reasoning: ReasoningOptions | None = Field(None, description="Thinking.")
    include: list[Literal["message.output_text.logprobs"]] | None = Field(
        None, max_length=1, description="What to add to the answer."
    )
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description="Most likely tokens to report; needs include."
    )
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = Field(None, description="Comes back as it is.")
    safety_identifier: str | None = Field(None, max_length=256, description="Written to the log, nothing else.")
    store: Literal[False] | None = Field(None, description="Only false: nothing is stored.")
    background: Literal[False] | None = Field(None, description="Only false.")
    truncation: Literal["disabled"] | None = Field(None, description="Only disabled.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="Only auto or default.")
    context_management: Unsupported = None
    conversation: Unsupported = None
    max_tool_calls: Unsupported = None
    moderation: Unsupported = None
    previous_response_id: Unsupported = None
    prompt: Unsupported = None
    prompt_cache_key: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
