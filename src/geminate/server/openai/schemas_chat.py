"""Request bodies of ``/v1/chat/completions``, ``/v1/completions``, ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from geminate.params import MAX_LOGPROBS
from geminate.server.openai.schemas_common import (
    MAX_CHOICES,
    Effort,
    FunctionSpec,
    GrammarFormat,
    Items,
    JsonObjectFormat,
    JsonSchemaSpec,
    RegexFormat,
    ReportsProgress,
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
    """A text part of a message. Images, audio and files are not supported."""

    type: Literal["text"]
    text: str = Field(description="Text of the part.")


Content = str | Items[TextPart]


class SystemMessage(Strict):
    """Instructions to the model."""

    role: Literal["system", "developer"]
    content: Content = Field(description="Text of the message.")


class UserMessage(Strict):
    """A message from the user."""

    role: Literal["user"]
    content: Content = Field(description="Text of the message.")


class CalledFunction(Strict):
    """A function and its arguments."""

    name: str = Field(min_length=1, max_length=64, description="The function's name.")
    arguments: str | None = Field(None, description="A JSON object, encoded as a string; null or empty: no arguments.")


class ToolCall(Strict):
    """A tool call from an earlier completion."""

    id: str = Field(description="The call's id, as in that completion.")
    type: Literal["function"] | None = Field(None, description="May be left out.")
    function: CalledFunction = Field(description="The function that was called.")
    index: int | None = Field(None, description="Ignored; calls are taken in the order of the list.")


class AssistantMessage(Strict):
    """An earlier completion."""

    role: Literal["assistant"]
    content: Content | None = Field(None, description="Text of the message; null counts as empty.")
    tool_calls: Items[ToolCall] | None = Field(None, description="Tool calls of the message.")
    reasoning_content: str | None = Field(None, description="Reasoning of the message; chat templates drop most of it.")
    annotations: Annotated[Items[Any], Field(max_length=0)] | None = Field(
        None, description="Only an empty list is accepted."
    )


class ToolMessage(Strict):
    """The result of a tool call."""

    role: Literal["tool"]
    tool_call_id: str = Field(description="Id of the tool call, from an earlier assistant message.")
    content: Content | None = Field(None, description="Result of the function, as text; null counts as empty.")
    name: str | None = Field(None, description="The function's name; optional, it follows from tool_call_id.")


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class ChatTool(Strict):
    """A tool; only functions are supported."""

    type: Literal["function"]
    function: FunctionSpec = Field(description="Name, description and parameters of the function.")


class ChosenFunction(Strict):
    """The name of a function."""

    name: str = Field(description="Name of one of the tools.")


class NamedChoice(Strict):
    """Forces a call of one function."""

    type: Literal["function"]
    function: ChosenFunction = Field(description="The function to call.")


class JsonSchemaFormat(Strict):
    """Output that satisfies a JSON schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchemaSpec = Field(description="The schema and its name.")


ChatFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | GrammarFormat, Field(discriminator="type")
]


class ChatRequest(Sampling, StopStrings, ReportsProgress):
    """Body of ``POST /v1/chat/completions``."""

    model: str = Field(description="The served model's id or an alias.")
    messages: Items[Message] = Field(min_length=1, description="The conversation so far.")
    max_completion_tokens: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Maximum number of tokens to generate."
    )
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1, description="Deprecated name of max_completion_tokens.")
    n: int | None = Field(
        None, ge=1, le=MAX_CHOICES, description="Number of choices to generate; at most the server's max_choices."
    )
    stream: bool | None = Field(None, description="Send the completion as it is generated, as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="Streaming options; only with stream.")
    logprobs: bool | None = Field(None, description="Return the log-probability of every generated token.")
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Number of most likely tokens to return at each position; needs logprobs.",
    )
    tools: Items[ChatTool] | None = Field(None, max_length=128, description="Functions that the model may call.")
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = Field(
        None, description="Whether the model may or must call a function; default: auto if there are tools."
    )
    parallel_tool_calls: bool | None = Field(
        None, description="Whether the model may make several calls; default true."
    )
    response_format: ChatFormat | None = Field(None, description="Format that the output must have.")
    reasoning_effort: Effort | None = Field(
        None, description="none and minimal turn thinking off, all others on: the model has no effort levels."
    )
    chat_template_kwargs: TemplateOptions | None = Field(
        None, description="Variables for the chat template. Extension."
    )
    add_generation_prompt: bool | None = Field(
        None,
        description="Begin a new turn of the model behind the messages; default true, unless continue_final_message is "
        "set. Extension.",
    )
    continue_final_message: bool | None = Field(
        None,
        description="Go on with the last message, which must be an assistant's, instead of beginning a new turn; the "
        "completion is what follows its text. Excludes add_generation_prompt: true. Extension.",
    )
    safety_identifier: str | None = Field(None, max_length=256, description="End-user id; only written to the log.")
    store: Literal[False] | None = Field(None, description="Only false is accepted; nothing is stored.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="Other values are ignored.")
    modalities: Annotated[Items[Literal["text"]], Field(max_length=1)] | None = Field(
        None, description="Only text is supported."
    )
    audio: Unsupported = None
    moderation: Unsupported = None
    web_search_options: Unsupported = None


Ids = Annotated[Items[TokenId], Field(min_length=1)]


class CompletionRequest(Sampling, StopStrings, ReportsProgress):
    """Body of ``POST /v1/completions``."""

    model: str = Field(description="The served model's id or an alias.")
    prompt: str | Ids | Annotated[Items[str], Field(min_length=1)] | Annotated[Items[Ids], Field(min_length=1)] = Field(
        description="Text, token ids, or a list of either."
    )
    max_tokens: int | None = Field(
        None,
        ge=0,
        le=2**31 - 1,
        description="Maximum number of tokens to generate per choice; default 16. 0 only with echo.",
    )
    n: int | None = Field(
        None, ge=1, le=MAX_CHOICES, description="Number of choices per prompt; at most max_choices in total."
    )
    stream: bool | None = Field(None, description="Send the completion as it is generated, as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="Streaming options; only with stream.")
    logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description="Number of most likely tokens to return at each position."
    )
    echo: bool | None = Field(
        None, description="Put the prompt before each completion, with logprobs also its tokens' log-probabilities."
    )
    best_of: Literal[1] | None = Field(None, description="Only 1 is accepted.")


class TokenizeRequest(Strict):
    """Body of ``POST /tokenize``: a text, or a conversation through the chat template."""

    model: str | None = Field(None, description="The served model's id or an alias.")
    prompt: str | None = Field(None, description="Text to tokenize; set this or messages.")
    messages: Items[Message] | None = Field(
        None, min_length=1, description="Conversation to tokenize; set this or prompt."
    )
    tools: Items[ChatTool] | None = Field(
        None, max_length=128, description="Tools for the chat template; only with messages."
    )
    chat_template_kwargs: TemplateOptions | None = Field(
        None, description="Variables for the chat template; only with messages."
    )
    add_special_tokens: bool | None = Field(
        None, description="Put the bos token before the text; only with prompt; default true."
    )
    return_token_strs: bool | None = Field(None, description="Return the text of each token as well.")


class DetokenizeRequest(Strict):
    """Body of ``POST /detokenize``."""

    model: str | None = Field(None, description="The served model's id or an alias.")
    tokens: Items[TokenId] = Field(description="Token ids to convert.")
    skip_special_tokens: bool | None = Field(None, description="Omit special tokens from the text; default false.")
