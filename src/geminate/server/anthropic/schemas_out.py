"""Response bodies of Anthropic's API, for the OpenAPI document and ``docs/serving-reference.md``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from geminate.server.openai.schemas_out import Out, Timings, Trace


class MessageUsage(Out):
    """Token counts; rejected draft tokens are not included."""

    input_tokens: int = Field(description="Prompt tokens that were not in the prefix cache.")
    cache_creation_input_tokens: int = Field(description="Always 0.")
    cache_read_input_tokens: int = Field(description="Prompt tokens found in the prefix cache.")
    output_tokens: int = Field(description="Number of tokens generated.")


class MessageObject(Out):
    """Response of ``/v1/messages``."""

    id: str = Field(description="Id of the message.")
    type: Literal["message"]
    role: Literal["assistant"]
    model: str = Field(description="The served model's id.")
    content: list[dict[str, Any]] = Field(
        description="Blocks: thinking, text, tool_use. A call that the length has cut off is left out."
    )
    stop_reason: Literal["end_turn", "max_tokens", "model_context_window_exceeded", "stop_sequence", "tool_use"] = (
        Field(description="Why generation ended; model_context_window_exceeded: before max_tokens.")
    )
    stop_sequence: str | None = Field(description="The stop string, with that reason.")
    usage: MessageUsage = Field(description="Token counts.")
    timings: Timings = Field(description="Timings and draft counts. Extension.")
    geminate: Trace | None = Field(None, description="The trace, if requested. Extension.")


class TokenCount(Out):
    """Response of ``/v1/messages/count_tokens``."""

    input_tokens: int = Field(description="Number of prompt tokens.")


class AnthropicError(Out):
    """Details of an error."""

    type: str = Field(description="Kind of error.")
    message: str = Field(description="What went wrong and how to fix it.")


class AnthropicErrorBody(Out):
    """Body of every error response of Anthropic's routes."""

    type: Literal["error"]
    error: AnthropicError = Field(description="The error.")
    request_id: str | None = Field(description="Id of the request, as in the log.")
