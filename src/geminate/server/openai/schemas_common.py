"""What the request schemas share: strictness, sampling, tools, and nulls in place of what is not supported."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from geminate.params import MAX_DRAFT, MAX_SEED

MAX_CHOICES = 128
Unsupported = Annotated[None, Field(description="Not supported: only null is accepted.")]
Text = Annotated[str, Field(min_length=1, max_length=1024)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class Strict(BaseModel):
    """No unknown fields, no conversions, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Sampling(Strict):
    """How tokens are chosen. What is left out comes from the model's generation_config."""

    temperature: float | None = Field(None, ge=0, description="Divides the logits; 0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, description="Keep the likeliest tokens up to this mass; 1: all.")
    top_k: int | None = Field(None, ge=0, le=2**31 - 1, description="Keep the k likeliest tokens; 0: all. Extension.")
    min_p: float | None = Field(
        None, ge=0, le=1, description="Drop tokens below this share of the likeliest one. Extension."
    )
    repetition_penalty: float | None = Field(
        None, gt=0, description="Divides positive logits of seen tokens, multiplies negative ones. Extension."
    )
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="Subtracted once per token in the answer.")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="Subtracted per occurrence in the answer.")
    logit_bias: dict[Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")], float] | None = Field(
        None, max_length=1024, description="Token id -> what is added to its logit."
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Same seed, same answer; drawn if left out.")
    ignore_eos: bool | None = Field(None, description="Go on past the model's end tokens. Extension.")
    stop_token_ids: list[TokenId] | None = Field(
        None, max_length=64, description="Further token ids that end the answer. Extension."
    )
    speculation: Literal["auto", "off", "ngram"] | Annotated[int, Field(ge=0, le=MAX_DRAFT)] | None = Field(
        None, description="How to draft; changes the speed, never the answer. Default: the server's. Extension."
    )
    trace: bool | None = Field(
        None, description="Report every round's tokens and where each came from, under `geminate`. Extension."
    )
    user: str | None = Field(None, max_length=256, description="Written to the log, nothing else.")


class StopStrings(Strict):
    """Stop strings."""

    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = Field(
        None, description="Up to 16 strings that end the answer and are cut off."
    )


class StreamOptions(Strict):
    """Of a streamed answer."""

    include_usage: bool | None = Field(None, description="A last chunk with the usage; null in the others.")
    include_obfuscation: Literal[False] | None = Field(None, description="Only false: there is no padding.")


class FunctionSpec(Strict):
    """A function the model may call."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Of the function.")
    description: str | None = Field(None, description="Told to the model.")
    parameters: dict[str, Any] | None = Field(None, description="JSON schema of an object; none: no arguments.")
    strict: bool | None = Field(None, description="Keep the arguments to the schema.")


class JsonSchemaSpec(Strict):
    """A named schema."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Of the schema.")
    description: str | None = Field(
        None, description="A remark, as the descriptions in the schema are: the model is told neither."
    )
    schema_: dict[str, Any] = Field(alias="schema", description="JSON schema the answer must satisfy.")
    strict: bool | None = Field(None, description="Answers always keep to the schema, whatever this says.")


class TextFormat(Strict):
    """Free text."""

    type: Literal["text"]


class JsonObjectFormat(Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class RegexFormat(Strict):
    """Text that a regular expression matches. Extension."""

    type: Literal["regex"]
    regex: str = Field(min_length=1, max_length=16384, description="In the syntax of Rust's regex crate.")


class GrammarFormat(Strict):
    """Text of a grammar. Extension."""

    type: Literal["grammar"]
    grammar: str = Field(min_length=1, max_length=65536, description="In llguidance's dialect of Lark.")


class TemplateOptions(Strict):
    """Variables of the chat template."""

    enable_thinking: bool | None = Field(None, description="Whether the model thinks before it answers.")
