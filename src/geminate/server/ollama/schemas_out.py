"""Response bodies of Ollama's API, for the OpenAPI document and ``docs/serving-reference.md``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from geminate.server.openai.schemas_out import Out, TokenLogprob, Trace


class OllamaAnswer(Out):
    """What the answers of ``/api/chat`` and ``/api/generate`` have in common; a stream's last line has the counts."""

    model: str = Field(description="The model's name, as in the request.")
    created_at: str = Field(description="Time of the answer.")
    done: bool = Field(description="Whether it is the last line.")
    done_reason: Literal["stop", "length", "load"] | None = Field(
        None, description="stop: end token or stop string; length: token limit; load: there was nothing to answer."
    )
    total_duration: int | None = Field(None, description="Nanoseconds since the request came.")
    load_duration: int | None = Field(None, description="Always 0: the model is loaded.")
    prompt_eval_count: int | None = Field(None, description="Number of prompt tokens.")
    prompt_eval_duration: int | None = Field(
        None, description="Nanoseconds spent in forward passes until the first token."
    )
    eval_count: int | None = Field(None, description="Number of tokens generated.")
    eval_duration: int | None = Field(None, description="Nanoseconds spent in forward passes after the first token.")
    logprobs: list[TokenLogprob] | None = Field(None, description="Log-probabilities, if requested.")
    geminate: Trace | None = Field(None, description="The trace, if requested. Extension.")


class OllamaChatAnswer(OllamaAnswer):
    """Response of ``/api/chat``."""

    message: dict[str, Any] = Field(description="role, content, thinking, tool_calls.")


class OllamaText(OllamaAnswer):
    """Response of ``/api/generate``."""

    response: str = Field(description="The text.")
    thinking: str | None = Field(None, description="Reasoning, if there is any.")


class OllamaDetails(Out):
    """Details of a model."""

    parent_model: Literal[""]
    format: Literal["gguf", "safetensors"] = Field(description="Format of the file.")
    family: str = Field(description="model_type of config.json.")
    families: list[str] = Field(description="The same.")
    parameter_size: str = Field(description="Number of parameters, as 4.6B.")
    quantization_level: str = Field(description="Weight format.")


class OllamaTag(Out):
    """An entry of ``/api/tags``."""

    name: str = Field(description="The served model's id.")
    model: str = Field(description="The same.")
    modified_at: str = Field(description="Time it was loaded.")
    size: int = Field(description="Bytes of the weights in memory.")
    digest: str = Field(description="Changes when the same request and seed may give different output.")
    details: OllamaDetails = Field(description="Details of the model.")


class OllamaTags(Out):
    """Response of ``/api/tags``."""

    models: list[OllamaTag] = Field(description="The served model.")


class OllamaRunning(Out):
    """An entry of ``/api/ps``."""

    name: str = Field(description="The served model's id.")
    model: str = Field(description="The same.")
    size: int = Field(description="Bytes of the weights in memory.")
    digest: str = Field(description="As in ``/api/tags``.")
    details: OllamaDetails = Field(description="Details of the model.")
    expires_at: str = Field(description="When it is unloaded: never.")
    size_vram: Literal[0]
    context_length: int = Field(description="Maximum number of prompt plus completion tokens.")


class OllamaProcesses(Out):
    """Response of ``/api/ps``."""

    models: list[OllamaRunning] = Field(description="The served model.")


class OllamaModel(Out):
    """Response of ``/api/show``."""

    modelfile: str = Field(description="A remark: there is none.")
    parameters: str = Field(description="Sampling defaults of generation_config.json.")
    template: str = Field(description="The chat template, in Jinja.")
    details: OllamaDetails = Field(description="Details of the model.")
    model_info: dict[str, Any] = Field(description="Shape of the model.")
    capabilities: list[str] = Field(description="completion, tools, thinking.")
    modified_at: str = Field(description="Time it was loaded.")


class OllamaVersion(Out):
    """Response of ``/api/version``."""

    version: str = Field(description="Version of Geminate.")


class OllamaErrorBody(Out):
    """Body of every error response of Ollama's routes."""

    error: str = Field(description="What went wrong and how to fix it.")
