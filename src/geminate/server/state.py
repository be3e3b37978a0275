"""What the routes share: the settings, the model once it is loaded, and the server's status."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from geminate import __version__
from geminate.checkpoint.checkpoint import Checkpoint
from geminate.engine.client import Service
from geminate.errors import GeminateError, TokenizerError
from geminate.llm import LLM
from geminate.loading.pairing import made_survival
from geminate.params import MAX_DRAFT
from geminate.server.acceptance import AcceptanceWatch
from geminate.server.audit import open_audit
from geminate.server.gauges import gauge_aliases
from geminate.server.http.errors import DRAIN_RETRY_AFTER_S, ApiError, bad_request, unavailable
from geminate.server.http.logs import log
from geminate.server.kept_items import KeptItems
from geminate.server.metrics import Metrics, ModelMetrics, Reading
from geminate.server.settings import Settings
from geminate.server.start import longest_request
from geminate.text.tokenizer import Tokenizer

EMBEDDED_ID = "geminate-embedded"
LOADING_RETRY_AFTER_S = 5


class Model:
    """A loaded model as the API shows it.

    Attributes:
        metrics: its own; set by `ServerState.attach`.
        id: its name in the API. listed, names: that and the aliases.
        context: maximum number of tokens of prompt and completion: of the model, the settings and the KV memory.
        fingerprint: changes when the answers to the same request and seed may.
        slow_template: whether the chat template once took too long for the event loop.

    Raises:
        TokenizerError: a model without a tokenizer.
    """

    metrics: ModelMetrics

    def __init__(self, llm: LLM, service: Service, settings: Settings) -> None:
        if llm.tokenizer is None:
            raise TokenizerError("this model has no tokenizer.json, and a server needs one")
        self.llm, self.service, self.settings = llm, service, settings
        self.tokenizer: Tokenizer = llm.tokenizer
        config = llm.config
        self.vocab_size = config.vocab_size
        self.id = settings.model_id or default_id(settings.model)
        self.listed = tuple(dict.fromkeys((self.id, *settings.alias)))
        self.names = frozenset(self.listed)
        own = min(config.max_position_embeddings, settings.max_context or config.max_position_embeddings)
        memory = service.engine.memory
        self.context = own if memory is None else longest_request(llm, settings, memory)
        self._bound = "" if self.context == own else f" (of {own:,}; kv_bytes holds no more)"
        self.compiler = llm.grammars
        self.acceptance = AcceptanceWatch(made_survival(llm.pair), lambda line: log("warning", line, model=self.id))
        self.slow_template = False
        self.fingerprint = fingerprint(llm)
        self.created = int(time.time())
        marks = llm.tokenizer.dialect.reasoning
        self.thought_open = None if marks is None else llm.tokenizer.token_id(marks.opened)
        self.thought_close = None if marks is None else llm.tokenizer.token_id(marks.closed)

    def check_length(self, characters: int, field: str, *, messages: int = 0) -> None:
        """Refuse a text that cannot fit the context, before it is rendered and encoded.

        Raises:
            ApiError: 400 with the code ``context_length_exceeded``.
        """
        if characters > self.context * self.tokenizer.longest or messages > self.context:
            what = f"{messages:,} messages" if messages > self.context else f"{characters:,} characters"
            raise bad_request(
                f"{field}: {what} cannot fit the context of {self.context:,} tokens", field, "context_length_exceeded"
            )

    def room(self, prompt: int, wanted: int | None) -> int:
        """Tokens that a completion may have behind a prompt of so many.

        Args:
            wanted: tokens that the client asked for.

        Raises:
            ApiError: 400 with the code ``context_length_exceeded``: there is no room, or less than asked for.
        """
        room = self.context - prompt
        if room >= (wanted or 1):
            return room
        why = "shorten the prompt to leave room for the completion"
        if room > 0:
            why = f"ask for at most {room:,}, or leave the limit out: the completion then ends with the context"
        asked = "" if wanted is None else f", and the completion may take {wanted:,}"
        raise bad_request(
            f"this model's maximum context length is {self.context:,} tokens{self._bound}; the prompt has "
            f"{prompt:,}{asked}; {why}",
            code="context_length_exceeded",
        )

    def card(self) -> dict[str, Any]:
        """The model's entry in ``/v1/models``."""
        pair = self.llm.pair
        return {
            "id": self.id, "object": "model", "created": self.created, "owned_by": "geminate",
            "max_model_len": self.context,
            "geminate": {
                "target": pair.located.target.name,
                "drafter": None if pair.located.drafter is None else pair.located.drafter.name,
                "weights": pair.target.store.format,
                "kv": pair.target.kv_format,
                "speculation_max": MAX_DRAFT,
                "chat": self.llm.template is not None,
                "version": __version__,
            },
        }  # fmt: skip


def default_id(model: str | None) -> str:
    """A model's default name: the hub id, or the last part of the path."""
    if model is None:
        return EMBEDDED_ID
    path = Path(model)
    return Checkpoint.open(path).name if path.exists() else model


def fingerprint(llm: LLM) -> str:
    """Hash of the version, the configuration, the weight files, and the formats of weights and KV cache."""
    store, source = llm.pair.target.store, llm.pair.source
    stamps = [] if source is None else source.checkpoint.stamps
    parts = (
        __version__,
        repr(llm.config),
        repr(sorted(store.bytes_by_format().items())),
        llm.pair.target.kv_format,
        repr([stamp[:2] for stamp in stamps]),
    )
    return "fp_" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


class ServerState:
    """The server's status (loading, ready, draining or failed), and its models.

    Args:
        program: what the audit log calls it.

    Raises:
        AuditLogError: an audit log that cannot be written.
    """

    def __init__(self, settings: Settings, *, program: str = "geminate serve") -> None:
        self.settings, self.program = settings, program
        self.metrics = Metrics(gauge_aliases(settings.gauge_alias))
        self.audit = open_audit(settings, self.metrics.registry)
        self.items = KeptItems(settings.kept_items_bytes)
        self.status: Literal["loading", "ready", "draining", "failed"] = "loading"
        self.failure: GeminateError | None = None
        self.models: list[Model] = []

    def attach(
        self,
        llm: LLM,
        service: Service,
        settings: Settings | None = None,
        readings: Callable[[], Iterable[Reading]] = tuple,
    ) -> None:
        """Use this loaded model, whose service has started; requests are accepted from now on.

        Args:
            settings: its own; None: the server's. readings: further values for the metrics.
        """
        model = Model(llm, service, settings or self.settings)
        model.metrics = self.metrics.attach(
            model.id,
            llm.pair.target.kv_format,
            service.snapshot,
            lambda: model.compiler.memory,
            llm.prefix_store,
            lambda: (*readings(), *(model.acceptance.readings() if llm.pair.drafter is not None else ())),
            model.acceptance.add,
        )
        self.models.append(model)
        if self.audit is not None:
            self.audit.begin(model.id, llm, model.settings, by=self.program)
        if self.status == "loading":
            self.status = "ready"

    @property
    def names(self) -> frozenset[str]:
        """Names of all models."""
        return frozenset[str]().union(*(model.names for model in self.models))

    def drop_idle(self, seconds: float) -> None:
        """Forget grammars that nobody has used for a while."""
        for model in self.models:
            model.compiler.drop_idle(seconds)

    def close(self) -> None:
        """End the grammar processes; write what is queued for the prefix store and the audit log."""
        if self.audit is not None:
            self.audit.close()
        for model in self.models:
            model.compiler.close()
            if model.llm.prefix_store is not None:
                model.llm.prefix_store.close()

    def drain(self) -> None:
        """Refuse new requests."""
        self.status = "draining"
        for model in self.models:
            model.service.drain()

    @property
    def failed(self) -> bool:
        """Whether the model could not be loaded or the engine has failed: only a restart helps."""
        return self.status == "failed" or any(model.service.failed for model in self.models)

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return all(model.service.idle for model in self.models)

    def check_ready(self) -> Model:
        """The model; of several the first.

        Raises:
            ApiError: 503 while it is loading, failed to load, the server is shutting down, or requests cannot be
                recorded.
        """
        if self.status == "draining":
            raise unavailable(
                "the server is shutting down and accepts no new requests", "draining", DRAIN_RETRY_AFTER_S
            )
        if self.failed:
            cause = "the engine has failed" if self.failure is None else str(self.failure)
            raise unavailable(f"{cause}; the server is exiting", "failed", LOADING_RETRY_AFTER_S)
        if not self.models:
            raise unavailable("the model is being loaded", "loading", LOADING_RETRY_AFTER_S)
        if self.audit is not None and (obstacle := self.audit.refusal) is not None:
            why = f"requests cannot be recorded in the audit log ({obstacle}), and are refused until they can"
            raise unavailable(why, "audit_log_failed", LOADING_RETRY_AFTER_S)
        return self.models[0]

    def ready_models(self) -> list[Model]:
        """All models; raises as `check_ready` does."""
        self.check_ready()
        return self.models

    def model(self, name: str | None) -> Model:
        """The model a request names.

        Raises:
            ApiError: 404 for another one, 503 as `check_ready`.
        """
        first = self.check_ready()
        if name is None:
            return first
        found = next((model for model in self.models if name in model.names), None)
        if found is None:
            here = " and ".join(repr(model.id) for model in self.models)
            raise ApiError(
                404,
                f"model {name[:200]!r} does not exist; this server has {here}",
                param="model",
                code="model_not_found",
            )
        return found

    def choices(self, wanted: int, name: str) -> int:
        """Check the number of choices of one request.

        Raises:
            ApiError: 400, more than ``max_choices``.
        """
        if wanted > self.settings.max_choices:
            raise bad_request(
                f"{name}: {wanted} choices, but one request may have at most {self.settings.max_choices} (max_choices)",
                name,
            )
        return wanted
