"""Requests of ``/v1/chat/completions``, ``/v1/completions``, ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from geminate.params import MAX_LOGPROBS
from geminate.server.openai.schemas_common import (
    MAX_CHOICES,
    Effort,
    FunctionSpec,
    GrammarFormat,
    JsonObjectFormat,
    JsonSchemaSpec,
    RegexFormat,
    Sampling,
    StopStrings,
    StreamOptions,
    Strict,
    TemplateOptions,
    TextFormat,
    TokenId,
    Unsupported,
)


class TextPart(Strict):
    """A piece of a message. Images, audio and files are refused."""

    type: Literal["text"]
    text: str = Field(description="The text.")


Content = str | list[TextPart]


class SystemMessage(Strict):
    """Instructions."""

    role: Literal["system", "developer"]
    content: Content = Field(description="The text.")
    name: Unsupported = None


class UserMessage(Strict):
    """What a user says."""

    role: Literal["user"]
    content: Content = Field(description="The text.")
    name: Unsupported = None


class CalledFunction(Strict):
    """A function with its arguments."""

    name: str = Field(min_length=1, max_length=64, description="Of the function.")
    arguments: str = Field(description="A JSON object as text.")


class ToolCall(Strict):
    """A call of an earlier answer."""

    id: str = Field(description="As the answer gave it.")
    type: Literal["function"]
    function: CalledFunction = Field(description="What was called.")
    index: int | None = Field(None, description="Left over from streaming; the order of the list counts.")


class AssistantMessage(Strict):
    """An earlier answer."""

    role: Literal["assistant"]
    content: Content | None = Field(None, description="The text; may be null beside tool_calls.")
    tool_calls: list[ToolCall] | None = Field(None, description="What it called.")
    reasoning_content: str | None = Field(None, description="Its thoughts; the chat template leaves most out.")
    name: Unsupported = None
    refusal: Unsupported = None
    audio: Unsupported = None
    function_call: Unsupported = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Only an empty list.")


class ToolMessage(Strict):
    """What a function returned."""

    role: Literal["tool"]
    tool_call_id: str = Field(description="Of the call it answers, in an earlier assistant message.")
    content: Content = Field(description="The result as text.")
    name: str | None = Field(None, description="Of the function; found by tool_call_id if left out.")


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class ChatTool(Strict):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionSpec = Field(description="The function.")


class ChosenFunction(Strict):
    """Its name."""

    name: str = Field(description="One of the tools.")


class NamedChoice(Strict):
    """The function that must be called."""

    type: Literal["function"]
    function: ChosenFunction = Field(description="Which.")


class JsonSchemaFormat(Strict):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchemaSpec = Field(description="The schema.")


ChatFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | GrammarFormat, Field(discriminator="type")
]


class ChatRequest(Sampling, StopStrings):
    """Body of ``POST /v1/chat/completions``."""

    model: str = Field(description="The served model's id, or an alias of it.")
    messages: list[Message] = Field(min_length=1, description="The conversation.")
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1, description="Most tokens of the answer.")
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1, description="Older name of max_completion_tokens.")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="Number of answers; at most max_choices.")
    stream: bool | None = Field(None, description="Send the answer as it comes, as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="Only with stream.")
    logprobs: bool | None = Field(None, description="Report every token's log-probability.")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description="Most likely tokens to report beside it; needs logprobs."
    )
    tools: list[ChatTool] | None = Field(None, max_length=128, description="Functions the model may call.")
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = Field(
        None, description="Whether to call; default auto with tools."
    )
    parallel_tool_calls: bool | None = Field(None, description="Whether several calls may be made; default true.")
    response_format: ChatFormat | None = Field(None, description="What the answer must look like.")
    reasoning_effort: Effort | None = Field(
        None, description="none and minimal switch thinking off, the others on: the model knows no degrees."
    )
    chat_template_kwargs: TemplateOptions | None = Field(None, description="For the chat template. Extension.")
    safety_identifier: str | None = Field(None, max_length=256, description="Written to the log, nothing else.")
    store: Literal[False] | None = Field(None, description="Only false: nothing is stored.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="Only auto or default.")
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = Field(None, description="Only text.")
    audio: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    metadata: Unsupported = None
    moderation: Unsupported = None
    prediction: Unsupported = None
    prompt_cache_key: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None


Ids = Annotated[list[TokenId], Field(min_length=1)]


class CompletionRequest(Sampling, StopStrings):
    """Body of ``POST /v1/completions``."""

    model: str = Field(description="The served model's id, or an alias of it.")
    prompt: str | Ids | Annotated[list[str], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)] = Field(
        description="Text, token ids, or a list of either."
    )
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1, description="Most tokens of an answer; default 16.")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="Answers to each prompt; at most max_choices in all.")
    stream: bool | None = Field(None, description="Send the answer as it comes, as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="Only with stream.")
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS, description="Most likely tokens to report.")
    echo: Literal[False] | None = Field(None, description="Only false.")
    best_of: Literal[1] | None = Field(None, description="Only 1.")
    suffix: Unsupported = None


class TokenizeRequest(Strict):
    """Body of ``POST /tokenize``: a text, or a conversation through the chat template."""

    model: str | None = Field(None, description="The served model's id, or an alias of it.")
    prompt: str | None = Field(None, description="Text; this or messages.")
    messages: list[Message] | None = Field(None, min_length=1, description="Conversation; this or prompt.")
    tools: list[ChatTool] | None = Field(None, max_length=128, description="Only with messages.")
    chat_template_kwargs: TemplateOptions | None = Field(None, description="Only with messages.")
    add_special_tokens: bool | None = Field(None, description="Put the bos token before a text; default true.")
    return_token_strs: bool | None = Field(None, description="Report each token's text as well.")


class DetokenizeRequest(Strict):
    """Body of ``POST /detokenize``."""

    model: str | None = Field(None, description="The served model's id, or an alias of it.")
    tokens: list[TokenId] = Field(description="Token ids.")
    skip_special_tokens: bool | None = Field(None, description="Leave special tokens out; default false.")
