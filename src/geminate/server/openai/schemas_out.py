"""Response bodies, for the OpenAPI document and ``docs/serving-reference.md``; not used when responding."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from geminate.speculation.policy import Reason


class Out(BaseModel):
    """Base class of response bodies."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ErrorDetail(Out):
    """Details of an error."""

    message: str = Field(description="What went wrong and how to fix it.")
    type: str = Field(description="Kind of error.")
    param: str | None = Field(description="The request field that caused the error.")
    code: str | None = Field(description="Machine-readable error code.")


class ErrorBody(Out):
    """Body of every error response."""

    error: ErrorDetail = Field(description="The error.")


class CachedTokens(Out):
    """Breakdown of prompt tokens."""

    cached_tokens: int = Field(description="Prompt tokens found in the prefix cache.")


class ReasoningTokens(Out):
    """Breakdown of completion tokens."""

    reasoning_tokens: int = Field(description="Reasoning tokens, including the tokens that delimit them.")


class Usage(Out):
    """Token counts; rejected draft tokens are not included."""

    prompt_tokens: int = Field(description="Number of tokens in all prompts.")
    completion_tokens: int = Field(description="Number of tokens generated, over all choices.")
    total_tokens: int = Field(description="Prompt and completion tokens together.")
    prompt_tokens_details: CachedTokens = Field(description="Breakdown of prompt tokens.")
    completion_tokens_details: ReasoningTokens = Field(description="Breakdown of completion tokens.")


class Timings(Out):
    """Timings and draft counts of a request, over all its choices. Extension."""

    prompt_n: int = Field(description="Number of prompt tokens.")
    cached_n: int = Field(description="Prompt tokens found in the prefix cache.")
    prompt_ms: float = Field(description="Milliseconds spent in forward passes until the first token.")
    predicted_n: int = Field(description="Number of tokens generated.")
    predicted_ms: float = Field(
        description="Milliseconds spent in forward passes after the first token; with several choices the longest."
    )
    predicted_per_second: float = Field(description="Tokens after the first, divided by that time.")
    draft_n: int = Field(description="Number of draft tokens.")
    draft_n_accepted: int = Field(description="Number of draft tokens accepted.")
    acceptance_length: float = Field(description="Mean number of tokens per round: 1 + accepted / rounds.")
    accepted_per_position: list[int] = Field(description="Accepted draft tokens at each position in the draft.")
    drafted_per_position: list[int] = Field(description="Draft tokens at each position in the draft.")
    draft_lengths: dict[str, int] = Field(description="Draft length -> number of rounds.")
    undrafted: dict[Reason, int] = Field(
        description="Why rounds had no draft -> number of rounds; speculation.md explains the reasons."
    )


class TracedToken(Out):
    """A generated token and its origin."""

    id: int = Field(description="Token id.")
    text: str = Field(description="Text of the token alone, special tokens included; a byte token as <0xE2>.")
    origin: Literal["target", "drafter", "copied", "forced"] = Field(
        description="Sampled by the target, or an accepted draft token from: the drafter, prompt lookup (copied), "
        "the grammar (forced)."
    )


class Round(Out):
    """One round of one choice."""

    choice: int = Field(description="Index of the choice.")
    tokens: list[TracedToken] = Field(description="Tokens generated in the round.")
    drafted: int = Field(description="Number of draft tokens.")
    accepted: int = Field(description="Number of draft tokens accepted.")
    undrafted: Reason | None = Field(description="Why there was no draft; null if there was one.")


class Trace(Out):
    """Present with ``trace: true``; in a stream each chunk has the fields of one round instead, and chunks before
    the first token may have ``prompt`` (``read``, ``of``) in their place. Extension."""

    seed: int = Field(description="Seed that was used.")
    rounds: list[Round] = Field(description="Rounds in order.")


class TopLogprob(Out):
    """A candidate token."""

    token: str = Field(description="Text of the token.")
    logprob: float = Field(description="Log-probability under the softmax of the raw logits.")
    bytes: list[int] = Field(description="UTF-8 bytes of the token.")


class TokenLogprob(TopLogprob):
    """A generated token and the most likely ones at its position."""

    top_logprobs: list[TopLogprob] = Field(description="Most likely tokens, best first.")


class ChatLogprobs(Out):
    """Log-probabilities, one entry per token, special tokens included."""

    content: list[TokenLogprob] = Field(description="Tokens in order.")
    refusal: None = Field(description="Always null.")


class OutFunction(Out):
    """A function and its arguments."""

    name: str = Field(description="The function's name.")
    arguments: str = Field(description="A JSON object, encoded as a string; cut off where the call was.")


class OutToolCall(Out):
    """A tool call made by the model."""

    id: str = Field(description="Id of the call; send it back with the result as tool_call_id.")
    type: Literal["function"]
    function: OutFunction = Field(description="The function to call.")


class ChatMessage(Out):
    """The generated message."""

    role: Literal["assistant"]
    content: str | None = Field(description="Text of the message; null if there are only tool calls.")
    refusal: None = Field(description="Always null.")
    reasoning_content: str | None = Field(None, description="Reasoning, if there is any.")
    tool_calls: list[OutToolCall] | None = Field(None, description="Tool calls, if there are any.")


class ChatChoice(Out):
    """One of the n choices."""

    index: int = Field(description="Index of the choice, from 0.")
    message: ChatMessage = Field(description="The generated message.")
    logprobs: ChatLogprobs | None = Field(description="Log-probabilities, if requested.")
    finish_reason: Literal["stop", "length", "tool_calls"] = Field(
        description="stop: end token or stop string; length: token limit; tool_calls: the model called tools."
    )


class ChatCompletion(Out):
    """Response of ``/v1/chat/completions``; the chunks of a stream have ``delta`` instead of ``message``."""

    id: str = Field(description="Id of the completion.")
    object: Literal["chat.completion"]
    created: int = Field(description="Creation time, in seconds since 1970.")
    model: str = Field(description="The served model's id.")
    system_fingerprint: str = Field(description="Changes when the same request and seed may give different output.")
    choices: list[ChatChoice] = Field(description="The choices.")
    usage: Usage = Field(description="Token counts.")
    timings: Timings = Field(
        description="Timings and draft counts; in a stream, in the last chunk with choices and the one with the usage."
    )
    geminate: Trace | None = Field(None, description="The trace, if requested.")


class CompletionLogprobsOut(Out):
    """Log-probabilities as lists with one entry per token."""

    tokens: list[str] = Field(description="Texts of the tokens.")
    token_logprobs: list[float | None] = Field(
        description="Log-probabilities of the tokens; null for the first token of an echoed prompt."
    )
    top_logprobs: list[dict[str, float] | None] = Field(
        description="Most likely tokens at each position; null for the first token of an echoed prompt."
    )
    text_offset: list[int] = Field(description="Number of characters before each token in the text.")


class CompletionChoice(Out):
    """One choice for one prompt."""

    index: int = Field(description="n times the index of the prompt, plus the index of the choice.")
    text: str = Field(description="Generated text; with echo, the prompt and the generated text.")
    logprobs: CompletionLogprobsOut | None = Field(description="Log-probabilities, if requested.")
    finish_reason: Literal["stop", "length"] = Field(description="stop: end token or stop string; length: token limit.")


class Completion(Out):
    """Response of ``/v1/completions``, and each chunk of a stream."""

    id: str = Field(description="Id of the completion.")
    object: Literal["text_completion"]
    created: int = Field(description="Creation time, in seconds since 1970.")
    model: str = Field(description="The served model's id.")
    system_fingerprint: str = Field(description="Changes when the same request and seed may give different output.")
    choices: list[CompletionChoice] = Field(description="The choices.")
    usage: Usage = Field(description="Token counts.")
    timings: Timings = Field(description="Timings and draft counts.")
    geminate: Trace | None = Field(None, description="The trace, if requested.")


class ResponseUsage(Out):
    """Token counts; rejected draft tokens are not included."""

    input_tokens: int = Field(description="Number of prompt tokens.")
    input_tokens_details: CachedTokens = Field(description="Breakdown of input tokens.")
    output_tokens: int = Field(description="Number of tokens generated.")
    output_tokens_details: ReasoningTokens = Field(description="Breakdown of output tokens.")
    total_tokens: int = Field(description="Prompt and completion tokens together.")


class ResponseObject(Out):
    """Response of ``/v1/responses``; fields of the request are echoed with the values that were used."""

    id: str = Field(description="Id of the response; nothing is stored under it.")
    object: Literal["response"]
    created_at: int = Field(description="Creation time, in seconds since 1970.")
    completed_at: int | None = Field(None, description="Completion time, in seconds since 1970.")
    status: Literal["completed", "incomplete"] = Field(description="incomplete: cut off by the token limit.")
    error: None = Field(
        description="Always null here; a stream that fails ends with response.failed, which has the error."
    )
    incomplete_details: dict[str, str] | None = Field(description="Reason for status incomplete.")
    output: list[dict[str, Any]] = Field(description="Output items: reasoning, message, function_call.")
    usage: ResponseUsage = Field(description="Token counts.")
    timings: Timings = Field(description="Timings and draft counts. Extension.")
    geminate: Trace | None = Field(None, description="The trace, if requested. Extension.")
    model: str = Field(description="The served model's id.")
    background: Literal[False]
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: dict[str, Any]
    service_tier: str
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    user: str | None


class ModelFacts(Out):
    """Details of the loaded model. Extension."""

    target: str = Field(description="Name of the target model's directory or file.")
    drafter: str | None = Field(description="Name of the drafter's directory or file; null without a drafter.")
    weights: str = Field(description="Weight format.")
    kv: str = Field(description="Format of the KV cache: f16 or int8.")
    speculation_max: int = Field(description="Maximum draft length.")
    chat: bool = Field(description="Whether the model has a chat template.")
    version: str = Field(description="Version of Geminate.")


class ModelCard(Out):
    """Response of ``/v1/models/{model}``, and the entry of ``/v1/models``."""

    id: str = Field(description="Name to use in requests.")
    object: Literal["model"]
    created: int = Field(description="Time it was loaded, in seconds since 1970.")
    owned_by: str = Field(description="Always geminate.")
    max_model_len: int = Field(description="Maximum number of prompt plus completion tokens.")
    geminate: ModelFacts = Field(description="Details of the loaded model.")


class ModelList(Out):
    """Response of ``/v1/models``."""

    object: Literal["list"]
    data: list[ModelCard] = Field(description="The served model.")


class Tokens(Out):
    """Response of ``/tokenize``."""

    count: int = Field(description="Number of tokens.")
    max_model_len: int = Field(description="Maximum number of prompt plus completion tokens.")
    tokens: list[int] = Field(description="Token ids.")
    token_strs: list[str] | None = Field(None, description="Text of each token, if requested.")


class DetokenizedText(Out):
    """Response of ``/detokenize``."""

    prompt: str = Field(description="Text of the token ids.")


class Health(Out):
    """Response of the health routes."""

    status: str = Field(description="live or ready.")
    notes: list[str] | None = Field(
        default=None,
        description="What an operator should know, such as a drafter that no longer fits; absent if nothing.",
    )
