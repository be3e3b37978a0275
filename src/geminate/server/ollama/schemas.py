"""Request bodies of Ollama's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from geminate.params import MAX_DRAFT, MAX_LOGPROBS
from geminate.server.openai.schemas_chat import ChatFormat
from geminate.server.openai.schemas_common import FunctionSpec, Items, Strict, Text


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


class Options(Strict):
    """Ollama's options; defaults come from the model's generation_config.json."""

    num_predict: Whole | None = Field(
        None, ge=-2, le=2**31 - 1, description="Maximum number of tokens to generate; up to 0: the server's max_tokens."
    )
    temperature: float | None = Field(None, ge=0, description="Divides the logits; 0 is greedy decoding.")
    top_k: Whole | None = Field(None, ge=-1, le=2**31 - 1, description="Keep the k most likely tokens; up to 0: all.")
    top_p: float | None = Field(None, ge=0, le=1, description="Keep the most likely tokens that add up to this.")
    min_p: float | None = Field(
        None, ge=0, le=1, description="Drop tokens less likely than this fraction of the most likely one."
    )
    seed: Whole | None = Field(None, ge=-1, description="Random seed; -1: random.")
    stop: str | Items[str] | None = Field(None, description="Up to 16 strings that end the completion.")
    repeat_penalty: float | None = Field(
        None, gt=0, description="For tokens already in the context; the whole context counts, see repeat_last_n."
    )
    repeat_last_n: Literal[0] | None = Field(None, description="0 turns repeat_penalty off; others have no effect.")
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="As in /v1/chat/completions.")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="As in /v1/chat/completions.")


class OllamaFunction(Strict):
    """A function and its arguments."""

    name: str = Field(min_length=1, max_length=64, description="The function's name.")
    arguments: dict[str, Any] | None = Field(None, description="The arguments.")


class OllamaCall(Strict):
    """A tool call of an earlier answer."""

    function: OllamaFunction = Field(description="The function that was called.")
    id: str | None = Field(None, description="The call's id.")
    type: Literal["function"] | None = Field(None, description="Only functions are supported.")


class OllamaMessage(Strict):
    """A message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"] = Field(description="Who speaks.")
    content: str | None = Field(None, description="Text of the message.")
    thinking: str | None = Field(None, description="Reasoning of an answer; chat templates drop most of it.")
    tool_calls: Items[OllamaCall] | None = Field(None, description="Tool calls of an answer.")
    tool_name: str | None = Field(None, description="Of a result: the tool that was called.")
    tool_call_id: str | None = Field(None, description="Of a result: the id of the call.")
    name: str | None = Field(None, description="Of a result: older name of tool_name.")


class OllamaTool(Strict):
    """A function that the model may call."""

    type: Literal["function"] | None = Field(None, description="Only functions are supported.")
    function: FunctionSpec = Field(description="Name, description and parameters of the function.")


class OllamaRequest(Strict):
    """What ``/api/chat`` and ``/api/generate`` have in common."""

    model: str = Field(description="The served model's id or an alias, with or without :latest.")
    stream: bool | None = Field(None, description="Send the answer as it is generated, one JSON a line; default true.")
    format: Literal["", "json"] | dict[str, Any] | None = Field(
        None, description="json, or a JSON schema that the answer must satisfy."
    )
    options: Options | None = Field(None, description="Sampling.")
    think: bool | Literal["low", "medium", "high", "max"] | None = Field(
        None, description="Thinking mode; the model has no levels. Default: the chat template's."
    )
    logprobs: bool | None = Field(None, description="Return the log-probability of every generated token.")
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS, description="Number of most likely tokens to return.")
    response_format: ChatFormat | None = Field(
        None,
        description="Format of the answer as in /v1/chat/completions: also a regular expression, or a grammar. "
        "Extension.",
    )
    speculation: Literal["auto", "off", "ngram"] | Annotated[int, Field(ge=0, le=MAX_DRAFT)] | None = Field(
        None, description="As in /v1/chat/completions. Extension."
    )
    trace: bool | None = Field(None, description="As in /v1/chat/completions; with the last line. Extension.")


class OllamaChatRequest(OllamaRequest):
    """Body of ``POST /api/chat``."""

    messages: Items[OllamaMessage] | None = Field(None, description="The conversation so far; empty: nothing to do.")
    tools: Items[OllamaTool] | None = Field(None, max_length=128, description="Functions that the model may call.")


class GenerateRequest(OllamaRequest):
    """Body of ``POST /api/generate``."""

    prompt: str | None = Field(None, description="What the user says; with raw the text to continue.")
    system: str | None = Field(None, description="Instructions to the model.")
    raw: bool | None = Field(None, description="Continue the prompt as it is, without the chat template.")


class ShowRequest(Strict):
    """Body of ``POST /api/show``."""

    model: Text | None = Field(None, description="The served model's id or an alias, with or without :latest.")
    name: Text | None = Field(None, description="Older name of model.")
