"""What the server answers, for the OpenAPI document and the tables of ``docs/serving.md``; not on the hot path."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Out(BaseModel):
    """An object of an answer."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ErrorDetail(Out):
    """What went wrong."""

    message: str = Field(description="The cause and the way out.")
    type: str = Field(description="Family of the error.")
    param: str | None = Field(description="The request field at fault.")
    code: str | None = Field(description="For programs.")


class ErrorBody(Out):
    """Every answer that is no success."""

    error: ErrorDetail = Field(description="What went wrong.")


class CachedTokens(Out):
    """Of the prompt."""

    cached_tokens: int = Field(description="Prompt tokens that were not computed again.")


class ReasoningTokens(Out):
    """Of the answer."""

    reasoning_tokens: int = Field(description="Tokens of thoughts, their marks included.")


class Usage(Out):
    """Counts. Tokens that were drafted and not accepted count nowhere."""

    prompt_tokens: int = Field(description="Tokens of all prompts.")
    completion_tokens: int = Field(description="Tokens emitted.")
    total_tokens: int = Field(description="Both.")
    prompt_tokens_details: CachedTokens = Field(description="Of the prompt.")
    completion_tokens_details: ReasoningTokens = Field(description="Of the answer.")


class Timings(Out):
    """Times and drafts of a request, all its answers together. Extension."""

    prompt_n: int = Field(description="Prompt tokens.")
    cached_n: int = Field(description="Of these, tokens that were not computed again.")
    prompt_ms: float = Field(description="Milliseconds of passes until the first token.")
    predicted_n: int = Field(description="Tokens emitted.")
    predicted_ms: float = Field(
        description="Milliseconds of passes after the first token; of several answers the most."
    )
    predicted_per_second: float = Field(description="Tokens after the first over that time.")
    draft_n: int = Field(description="Tokens drafted.")
    draft_n_accepted: int = Field(description="Of these, tokens emitted.")
    acceptance_length: float = Field(description="Mean tokens a round: 1 + accepted / rounds.")
    accepted_per_position: list[int] = Field(description="How often the guess at each place was emitted.")
    drafted_per_position: list[int] = Field(description="How often there was one.")
    draft_lengths: dict[str, int] = Field(description="Draft length -> rounds with it.")


class TracedToken(Out):
    """An emitted token."""

    id: int = Field(description="Its id.")
    text: str = Field(description="Its own text, special tokens included; a byte as <0xE2>.")
    origin: Literal["target", "drafter", "copied", "forced"] = Field(
        description="The target's own draw, an accepted draft, copied text, or what a grammar left no choice about."
    )


class Round(Out):
    """One round of one answer."""

    choice: int = Field(description="Which answer.")
    tokens: list[TracedToken] = Field(description="What it emitted.")
    drafted: int = Field(description="Tokens drafted.")
    accepted: int = Field(description="Of these, tokens emitted.")


class Trace(Out):
    """With ``trace: true``. In a stream each chunk has one round's fields instead. Extension."""

    seed: int = Field(description="What seeded the noise.")
    rounds: list[Round] = Field(description="In order.")


class TopLogprob(Out):
    """A likely token."""

    token: str = Field(description="Its text.")
    logprob: float = Field(description="Under the softmax of the raw logits.")
    bytes: list[int] = Field(description="Its UTF-8.")


class TokenLogprob(TopLogprob):
    """An emitted token and the likeliest ones at its place."""

    top_logprobs: list[TopLogprob] = Field(description="Best first.")


class ChatLogprobs(Out):
    """One entry a token, special tokens included."""

    content: list[TokenLogprob] = Field(description="In order.")
    refusal: None = Field(description="Always null.")


class OutFunction(Out):
    """A function with its arguments."""

    name: str = Field(description="Of the function.")
    arguments: str = Field(description="A JSON object as text.")


class OutToolCall(Out):
    """A call."""

    id: str = Field(description="To answer it by.")
    type: Literal["function"]
    function: OutFunction = Field(description="What to call.")


class ChatMessage(Out):
    """The answer."""

    role: Literal["assistant"]
    content: str | None = Field(description="The text; null beside calls without any.")
    refusal: None = Field(description="Always null.")
    reasoning_content: str | None = Field(None, description="Thoughts, if there are any.")
    tool_calls: list[OutToolCall] | None = Field(None, description="Calls, if there are any.")


class ChatChoice(Out):
    """One answer."""

    index: int = Field(description="From 0.")
    message: ChatMessage = Field(description="The answer.")
    logprobs: ChatLogprobs | None = Field(description="If asked for.")
    finish_reason: Literal["stop", "length", "tool_calls"] = Field(
        description="An end token or stop string, the length, or calls that wait for results."
    )


class ChatCompletion(Out):
    """Answer of ``/v1/chat/completions``; a stream has chunks with ``delta`` in place of ``message``."""

    id: str = Field(description="Of the answer.")
    object: Literal["chat.completion"]
    created: int = Field(description="Seconds since 1970.")
    model: str = Field(description="The served model's id.")
    system_fingerprint: str = Field(description="Changes when the same request and seed may give other answers.")
    choices: list[ChatChoice] = Field(description="The answers.")
    usage: Usage = Field(description="Counts.")
    timings: Timings = Field(
        description="Times and drafts; in a stream in the last chunk with choices, and beside the usage."
    )
    geminate: Trace | None = Field(None, description="With trace.")


class CompletionLogprobsOut(Out):
    """Lists of one entry a token."""

    tokens: list[str] = Field(description="Texts.")
    token_logprobs: list[float] = Field(description="Log-probabilities.")
    top_logprobs: list[dict[str, float]] = Field(description="Likeliest tokens.")
    text_offset: list[int] = Field(description="Characters before the token in the answer.")


class CompletionChoice(Out):
    """One answer."""

    index: int = Field(description="Prompt by prompt: n times the prompt's number, plus the answer's.")
    text: str = Field(description="Without the prompt.")
    logprobs: CompletionLogprobsOut | None = Field(description="If asked for.")
    finish_reason: Literal["stop", "length"] = Field(description="An end token or stop string, or the length.")


class Completion(Out):
    """Answer of ``/v1/completions``, and in a stream each chunk."""

    id: str = Field(description="Of the answer.")
    object: Literal["text_completion"]
    created: int = Field(description="Seconds since 1970.")
    model: str = Field(description="The served model's id.")
    system_fingerprint: str = Field(description="Changes when the same request and seed may give other answers.")
    choices: list[CompletionChoice] = Field(description="The answers.")
    usage: Usage = Field(description="Counts.")
    timings: Timings = Field(description="Times and drafts.")
    geminate: Trace | None = Field(None, description="With trace.")


class ResponseUsage(Out):
    """Counts."""

    input_tokens: int = Field(description="Tokens of the prompt.")
    input_tokens_details: CachedTokens = Field(description="Of the prompt.")
    output_tokens: int = Field(description="Tokens emitted.")
    output_tokens_details: ReasoningTokens = Field(description="Of the answer.")
    total_tokens: int = Field(description="Both.")


class ResponseObject(Out):
    """Answer of ``/v1/responses``; fields of the request come back as they were understood."""

    id: str = Field(description="Of the answer; nothing is stored under it.")
    object: Literal["response"]
    created_at: int = Field(description="Seconds since 1970.")
    completed_at: int | None = Field(None, description="Seconds since 1970.")
    status: Literal["completed", "incomplete"] = Field(description="incomplete: cut off by the length.")
    error: None = Field(description="Null; a stream that fails ends with response.failed, which has it.")
    incomplete_details: dict[str, str] | None = Field(description="Why it is incomplete.")
    output: list[dict[str, Any]] = Field(description="Items: reasoning, message, function_call.")
    usage: ResponseUsage = Field(description="Counts.")
    timings: Timings = Field(description="Times and drafts. Extension.")
    geminate: Trace | None = Field(None, description="With trace. Extension.")
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
    """What runs. Extension."""

    target: str = Field(description="Name of the target's directory or file.")
    drafter: str | None = Field(description="Name of the drafter's.")
    weights: str = Field(description="Format of the matrices.")
    speculation_max: int = Field(description="Longest draft.")
    chat: bool = Field(description="Whether there is a chat template.")
    version: str = Field(description="Of Geminate.")


class ModelCard(Out):
    """Answer of ``/v1/models/{model}``, and an entry of ``/v1/models``."""

    id: str = Field(description="Name for requests.")
    object: Literal["model"]
    created: int = Field(description="When it was loaded.")
    owned_by: str = Field(description="geminate.")
    max_model_len: int = Field(description="Most tokens of prompt and answer together.")
    geminate: ModelFacts = Field(description="What runs.")


class ModelList(Out):
    """Answer of ``/v1/models``."""

    object: Literal["list"]
    data: list[ModelCard] = Field(description="One model.")


class Tokens(Out):
    """Answer of ``/tokenize``."""

    count: int = Field(description="Number of tokens.")
    max_model_len: int = Field(description="Most tokens of prompt and answer together.")
    tokens: list[int] = Field(description="Token ids.")
    token_strs: list[str] | None = Field(None, description="Each token's text, if asked for.")


class DetokenizedText(Out):
    """Answer of ``/detokenize``."""

    prompt: str = Field(description="The text.")


class Health(Out):
    """Answer of the health routes."""

    status: str = Field(description="live, or ready.")
