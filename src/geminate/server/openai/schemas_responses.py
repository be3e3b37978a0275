"""Request body of ``/v1/responses``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from geminate.params import MAX_LOGPROBS
from geminate.server.openai.schemas_common import (
    Effort,
    FunctionSpec,
    GrammarFormat,
    Items,
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
    """A text part of a message to the model."""

    type: Literal["input_text"]
    text: str = Field(description="Text of the part.")


class OutputText(Strict):
    """A text part of an earlier response."""

    type: Literal["output_text"]
    text: str = Field(description="Text of the part.")
    annotations: Annotated[Items[Any], Field(max_length=0)] | None = Field(
        None, description="Only an empty list is accepted."
    )
    logprobs: Items[Any] | None = Field(None, description="Ignored.")


Part = Annotated[InputText | OutputText, Field(discriminator="type")]


class MessageItem(Strict):
    """A message of the conversation."""

    type: Literal["message"] | None = Field(None, description="Optional.")
    role: Literal["system", "developer", "user", "assistant"] = Field(description="Role of the author.")
    content: str | Items[Part] = Field(description="Text of the message.")
    id: str | None = Field(None, description="As in an earlier response; ignored.")
    status: Status | None = Field(None, description="As in an earlier response; ignored.")


class FunctionCallItem(Strict):
    """A function call from an earlier response."""

    type: Literal["function_call"]
    call_id: str = Field(description="The call's id, as in that response.")
    name: str = Field(min_length=1, max_length=64, description="The function's name.")
    arguments: str | None = Field(None, description="A JSON object, encoded as a string; null or empty: no arguments.")
    id: str | None = Field(None, description="As in an earlier response; ignored.")
    status: Status | None = Field(None, description="As in an earlier response; ignored.")


class FunctionOutputItem(Strict):
    """The result of a function call."""

    type: Literal["function_call_output"]
    call_id: str = Field(description="Id of the function call.")
    output: str | Items[InputText] = Field(description="Result of the function, as text.")
    id: str | None = Field(None, description="Ignored.")
    status: Status | None = Field(None, description="Ignored.")


class ReasoningText(Strict):
    """A part of the reasoning."""

    type: Literal["reasoning_text"]
    text: str = Field(description="Text of the reasoning.")


class ReasoningItem(Strict):
    """Reasoning of an earlier response; chat templates drop most of it."""

    type: Literal["reasoning"]
    id: str | None = Field(None, description="As in an earlier response; ignored.")
    summary: Annotated[Items[Any], Field(max_length=0)] | None = Field(
        None, description="Only an empty list is accepted."
    )
    content: Items[ReasoningText] | None = Field(None, description="Parts of the reasoning.")
    status: Status | None = Field(None, description="As in an earlier response; ignored.")


class ItemReference(Strict):
    """An output item of an earlier response that was not made with ``store: false``."""

    type: Literal["item_reference"] | None = Field(None, description="Optional.")
    id: str = Field(description="The item's id; the server keeps the most recent items, see kept_items_bytes.")


def _item_type(item: Any) -> str | None:
    if not isinstance(item, dict):
        return "item_reference" if isinstance(item, ItemReference) else getattr(item, "type", None) or "message"
    kind = item.get("type")
    return item_kind(item) if kind is None else kind if isinstance(kind, str) else None


def item_kind(item: Mapping[str, Any]) -> str:
    """What an item without a type is: a reference if it has an id alone, else a message."""
    return "item_reference" if {key for key, value in item.items() if value is not None} == {"id"} else "message"


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")],
    Discriminator(_item_type),
]


class ResponseTool(FunctionSpec):
    """A tool; only functions are supported."""

    type: Literal["function"]


class NamedFunction(Strict):
    """Forces a call of one function."""

    type: Literal["function"]
    name: str = Field(description="Name of one of the tools.")


class ResponseJsonSchema(JsonSchemaSpec):
    """Output that satisfies a JSON schema."""

    type: Literal["json_schema"]


class TextOptions(Strict):
    """Options for the output text."""

    format: (
        Annotated[
            TextFormat | JsonObjectFormat | ResponseJsonSchema | RegexFormat | GrammarFormat,
            Field(discriminator="type"),
        ]
        | None
    ) = Field(None, description="Format that the output must have.")


class ReasoningOptions(Strict):
    """Options for reasoning."""

    effort: Effort | None = Field(
        None, description="none and minimal turn thinking off, all others on: the model has no effort levels."
    )


class ResponseRequest(Sampling):
    """Body of ``POST /v1/responses``. Nothing is stored; every request carries the whole conversation."""

    model: str = Field(description="The served model's id or an alias.")
    input: str | Annotated[Items[Item], Field(min_length=1)] = Field(description="A text, or a list of input items.")
    instructions: str | None = Field(None, description="System message before the input.")
    max_output_tokens: int | None = Field(None, ge=1, le=2**31 - 1, description="Maximum number of tokens to generate.")
    stream: bool | None = Field(None, description="Send events while the response is generated.")
    stream_options: StreamOptions | None = Field(None, description="Streaming options; only with stream.")
    tools: Items[ResponseTool] | None = Field(None, max_length=128, description="Functions that the model may call.")
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = Field(
        None, description="Whether the model may or must call a function; default: auto if there are tools."
    )
    parallel_tool_calls: bool | None = Field(
        None, description="Whether the model may make several calls; default true."
    )
    text: TextOptions | None = Field(None, description="Options for the output text.")
    reasoning: ReasoningOptions | None = Field(None, description="Options for reasoning.")
    include: Items[Literal["message.output_text.logprobs"]] | None = Field(
        None, max_length=1, description="Additional data to return."
    )
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Number of most likely tokens to return at each position; needs include.",
    )
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = Field(
        None, description="Returned unchanged in the response."
    )
    safety_identifier: str | None = Field(None, max_length=256, description="End-user id; only written to the log.")
    store: bool | None = Field(
        None, description="false: do not keep the output items for item_reference. Nothing is stored on disk."
    )
    background: Literal[False] | None = Field(None, description="Only false is accepted.")
    truncation: Literal["disabled"] | None = Field(None, description="auto is ignored.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="Other values are ignored.")
    context_management: Unsupported = None
    moderation: Unsupported = None
