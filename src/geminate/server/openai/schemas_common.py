"""Shared parts of the request schemas: strict validation, sampling, tools, response formats."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from geminate.params import MAX_DRAFT, MAX_SEED

MAX_CHOICES = 128
_T = TypeVar("_T")
Items = Annotated[
    list[_T], Field(fail_fast=True)
]  # one error per list: a million bad items would make a million errors
Unsupported = Annotated[None, Field(description="Not supported; only null is accepted.")]
Text = Annotated[str, Field(min_length=1, max_length=1024)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Strict(BaseModel):
    """Base class of request bodies: unknown fields, type conversions and NaN are rejected."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Sampling(Strict):
    """Sampling parameters; defaults come from the model's generation_config.json."""

    temperature: float | None = Field(None, ge=0, description="Divides the logits; 0 is greedy decoding.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Keep the most likely tokens whose probabilities add up to this; 1 keeps all."
    )
    top_k: int | None = Field(
        None, ge=0, le=2**31 - 1, description="Keep the k most likely tokens; 0 keeps all. Extension."
    )
    min_p: float | None = Field(
        None, ge=0, le=1, description="Drop tokens less likely than this fraction of the most likely one. Extension."
    )
    repetition_penalty: float | None = Field(
        None,
        gt=0,
        description="For tokens already in the context: divides positive logits, multiplies negative ones. Extension.",
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="Subtracted from the logit of every token already generated."
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="Subtracted once for each time a token was generated."
    )
    logit_bias: dict[Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")], float] | None = Field(
        None, max_length=1024, description="Token id -> value added to its logit."
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="Random seed; the same request and seed give the same output. Random if not set.",
    )
    ignore_eos: bool | None = Field(None, description="Continue past the model's end-of-sequence tokens. Extension.")
    stop_token_ids: Items[TokenId] | None = Field(
        None, max_length=64, description="Additional token ids that end the completion. Extension."
    )
    speculation: Literal["auto", "off", "ngram"] | Annotated[int, Field(ge=0, le=MAX_DRAFT)] | None = Field(
        None,
        description="How to draft, or a draft length; changes the speed, never the output. Default: the server's. "
        "Extension.",
    )
    trace: bool | None = Field(
        None, description="Report the tokens of every round and their origin, under `geminate`. Extension."
    )
    user: str | None = Field(None, max_length=256, description="End-user id; only written to the log.")


class StopStrings(Strict):
    """The stop field of chat and text completions."""

    stop: Text | Annotated[Items[Text], Field(max_length=16)] | None = Field(
        None, description="Up to 16 strings that end the completion; they are not part of its text."
    )


class ReportsProgress(Strict):
    """The field of chat and text completions about the prompt."""

    return_progress: bool | None = Field(
        None,
        description="With stream: tell how far the prompt is, in chunks with `prompt_progress` before the first token. "
        "Extension.",
    )


class StreamOptions(Strict):
    """Options for a streamed response."""

    include_usage: bool | None = Field(
        None, description="Send a last chunk with the usage; in the other chunks it is null."
    )
    include_obfuscation: Literal[False] | None = Field(
        None, description="Only false is accepted; chunks are not padded."
    )


class FunctionSpec(Strict):
    """A function the model may call."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="The function's name.")
    description: str | None = Field(None, description="What the function does; shown to the model.")
    parameters: dict[str, Any] | None = Field(
        None, description="JSON schema of an object; without it the function takes no arguments."
    )
    strict: bool | None = Field(None, description="Reject a schema that cannot be fully enforced.")


class JsonSchemaSpec(Strict):
    """A named JSON schema."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="The schema's name.")
    description: str | None = Field(
        None, description="Not shown to the model; neither are descriptions inside the schema."
    )
    schema_: dict[str, Any] = Field(alias="schema", description="JSON schema the output must satisfy.")
    strict: bool | None = Field(None, description="The schema is always enforced, whatever the value.")


class TextFormat(Strict):
    """Free text, the default."""

    type: Literal["text"]


class JsonObjectFormat(Strict):
    """Output that is a JSON object."""

    type: Literal["json_object"]


class RegexFormat(Strict):
    """Output that matches a regular expression. Extension."""

    type: Literal["regex"]
    regex: str = Field(
        min_length=1, max_length=16384, description="Regular expression in the syntax of Rust's regex crate."
    )


class GrammarFormat(Strict):
    """Output of a context-free grammar. Extension."""

    type: Literal["grammar"]
    grammar: str = Field(min_length=1, max_length=65536, description="Grammar in llguidance's dialect of Lark.")


class TemplateOptions(Strict):
    """Variables for the chat template."""

    enable_thinking: bool | None = Field(None, description="Turn the model's thinking mode on or off.")
