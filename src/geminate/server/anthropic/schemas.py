"""Request bodies of ``/v1/messages`` and ``/v1/messages/count_tokens``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from geminate.server.openai.schemas_chat import ChatFormat
from geminate.server.openai.schemas_common import Items, Sampling, Strict, Text


class TextBlock(Strict):
    """A text."""

    type: Literal["text"]
    text: str = Field(description="The text.")


class ThinkingBlock(Strict):
    """Reasoning of an earlier message; chat templates drop most of it."""

    type: Literal["thinking"]
    thinking: str = Field(description="The reasoning.")
    signature: str | None = Field(None, description="Accepted as it is; reasoning is neither signed nor checked.")


class RedactedThinkingBlock(Strict):
    """Encrypted reasoning of another server; it is dropped."""

    type: Literal["redacted_thinking"]
    data: str = Field(description="Not read.")


class ToolUseBlock(Strict):
    """A tool call of an earlier message."""

    type: Literal["tool_use"]
    id: str = Field(description="The call's id.")
    name: str = Field(min_length=1, max_length=64, description="The tool's name.")
    input: dict[str, Any] = Field(description="The arguments.")


class ToolResultBlock(Strict):
    """The result of a tool call."""

    type: Literal["tool_result"]
    tool_use_id: str = Field(description="Id of the tool call.")
    content: str | Items[TextBlock] | None = Field(None, description="The result, as text.")
    is_error: Literal[False] | None = Field(
        None, description="True has no effect: templates have no place for it; say it in content."
    )


UserBlock = Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]
AssistantBlock = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock, Field(discriminator="type")
]


class UserTurn(Strict):
    """What the user said, and the results of tools."""

    role: Literal["user"]
    content: str | Items[UserBlock] = Field(description="Text, or text and tool_result blocks.")


class AssistantTurn(Strict):
    """An earlier message of the model."""

    role: Literal["assistant"]
    content: str | Items[AssistantBlock] = Field(description="Text, or the blocks of that message.")


Turn = Annotated[UserTurn | AssistantTurn, Field(discriminator="role")]


class MessagesTool(Strict):
    """A tool that the client runs."""

    type: Literal["custom"] | None = Field(None, description="May be left out.")
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="The tool's name.")
    description: str | None = Field(None, description="What the tool does; shown to the model.")
    input_schema: dict[str, Any] = Field(description="JSON schema of the arguments, an object.")
    strict: bool | None = Field(None, description="Reject a schema that cannot be fully enforced.")


class AutoChoice(Strict):
    """The model may call tools."""

    type: Literal["auto"]
    disable_parallel_tool_use: bool | None = Field(None, description="At most one call.")


class AnyChoice(Strict):
    """The model must call a tool."""

    type: Literal["any"]
    disable_parallel_tool_use: bool | None = Field(None, description="Exactly one call.")


class OneChoice(Strict):
    """The model must call this tool."""

    type: Literal["tool"]
    name: str = Field(description="Name of one of the tools.")
    disable_parallel_tool_use: bool | None = Field(None, description="Always so.")


class NoChoice(Strict):
    """The model may call no tool."""

    type: Literal["none"]


class ThinkingOn(Strict):
    """Thinking mode; ``budget_tokens`` has no effect, ``max_tokens`` limits the whole message."""

    type: Literal["enabled", "adaptive"]
    display: Literal["summarized", "omitted"] | None = Field(
        None, description="omitted: thinking blocks come without their text. It is never summarized."
    )


class ThinkingOff(Strict):
    """No thinking mode."""

    type: Literal["disabled"]


class OutputFormat(Strict):
    """Output that satisfies a JSON schema."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema", description="The JSON schema.")


class OutputConfig(Strict):
    """Options of the output."""

    format: OutputFormat | None = Field(None, description="Format that the text must have.")


class CountRequest(Strict):
    """Body of ``POST /v1/messages/count_tokens``."""

    model: str = Field(description="The served model's id or an alias.")
    messages: Items[Turn] = Field(min_length=1, description="The conversation so far.")
    system: str | Items[TextBlock] | None = Field(None, description="Instructions to the model.")
    tools: Items[MessagesTool] | None = Field(None, max_length=128, description="Tools that the model may call.")
    tool_choice: Annotated[AutoChoice | AnyChoice | OneChoice | NoChoice, Field(discriminator="type")] | None = Field(
        None, description="Whether the model may or must call a tool; default: auto if there are tools."
    )
    thinking: Annotated[ThinkingOn | ThinkingOff, Field(discriminator="type")] | None = Field(
        None, description="Thinking mode; default: the chat template's."
    )
    output_config: OutputConfig | None = Field(None, description="Format of the text.")
    output_format: OutputFormat | None = Field(None, description="Older place of output_config.format.")
    response_format: ChatFormat | None = Field(
        None,
        description="Format of the text as in /v1/chat/completions: also a regular expression, or a grammar. "
        "Extension.",
    )


class MessagesRequest(CountRequest, Sampling):
    """Body of ``POST /v1/messages``."""

    max_tokens: int = Field(
        ge=1, le=2**31 - 1, description="Maximum number of tokens to generate; less where the context or memory ends."
    )
    stop_sequences: Annotated[Items[Text], Field(max_length=16)] | None = Field(
        None, description="Up to 16 strings that end the message; they are not part of its text."
    )
    stream: bool | None = Field(None, description="Send the message as it is generated, as server-sent events.")
    metadata: dict[str, Any] | None = Field(None, description="user_id is written to the log; nothing else is read.")
