"""Errors a user can cause or meet. Each message names the cause and the way out."""

from __future__ import annotations

from collections.abc import Mapping

MAX_BITS = 4000  # of an integer that is printed


def shown(value: object, most: int = 200) -> str:
    """A value of a file as a message shows it: shortened, JSON's words in JSON, and never an error of its own.

    Args:
        most: characters.
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return f"an integer of {value.bit_length():,} bits"
    if isinstance(value, str | bytes | list | tuple) and len(value) > most:
        value = value[:most]  # printing a megabyte to cut it off would take its time
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return kind_of(value)
    return text if len(text) <= most else text[:most] + "..."


def kind_of(value: object) -> str:
    """What a value is, in the words of JSON: "null", "a list", "an object"."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    for kinds, words in _KINDS:
        if isinstance(value, kinds):
            return words
    return f"a {type(value).__name__}"


_KINDS: tuple[tuple[tuple[type, ...], str], ...] = (
    ((bool,), "true or false"), ((int, float), "a number"), ((str,), "a string"), ((list, tuple), "a list"),
)  # fmt: skip


class GeminateError(Exception):
    """Base of every error this package raises on purpose; the CLI prints it without a traceback."""


class ConfigError(GeminateError):
    """A model configuration that is missing, malformed, or asks for arithmetic we do not have."""


SHORTENED = (
    "a mapped file was shortened while in use, or its disk cannot be read any more; "
    "replace weights by renaming new files over the old ones"
)
"""What a program says before it dies of SIGBUS."""


class WeightsError(GeminateError):
    """A weight file that is missing, damaged, or does not match its configuration."""


class PrefixStoreError(GeminateError):
    """A directory that cannot be used as a prefix store."""


class AuditLogError(GeminateError):
    """A file that cannot be written as an audit log, or that is none."""


class AuditLogInUseError(AuditLogError):
    """An audit log that another process writes."""


class StorageError(WeightsError):
    """No place for packed weights."""


class DrafterMismatchError(GeminateError):
    """A drafter that cannot work with its target (backbone size, vocabulary, KV heads, head dims)."""


class ModelNotFoundError(GeminateError):
    """A path or hub id that leads to no model."""


class DownloadError(GeminateError):
    """A model that cannot be downloaded: connection, hub, disk, or contents that are not what was announced."""


class HubUnreachableError(DownloadError):
    """The hub does not answer, or the network is off."""


class ParameterError(GeminateError, ValueError):
    """A sampling or speculation parameter outside its legal range."""


class ArgumentTypeError(ParameterError, TypeError):
    """An argument of the wrong type, or a keyword that does not exist."""


class ContextLengthError(GeminateError, ValueError):
    """A prompt that does not fit the model's context."""


class ContextFullError(ContextLengthError):
    """A conversation that leaves no room for an answer.

    Attributes:
        used: tokens of the conversation. limit: tokens of the context.
    """

    def __init__(self, used: int, limit: int) -> None:
        super().__init__(
            f"the conversation has {used:,} tokens and the context holds {limit:,}: there is no room for an answer; "
            "drop old turns (ChatSession.compact) or begin anew (ChatSession.reset)"
        )
        self.used, self.limit = used, limit


class TokenizerError(GeminateError):
    """A missing or damaged tokenizer or chat template, or text it cannot handle."""


class TemplateTimeoutError(TokenizerError):
    """A chat template that did not end in time."""


class BackendError(GeminateError):
    """A kernel backend or instruction set that was asked for but is not available."""


class GrammarError(GeminateError):
    """A reply's grammar that cannot be followed further: too complex, or without a way on."""


class TrainingError(GeminateError):
    """Training that cannot start or go on: data, settings, memory, disk, or a loss that is no number."""


class QuantizationError(GeminateError):
    """A quantized copy cannot be written."""


class ServiceError(GeminateError):
    """A request that the server cannot take, or not finish."""


class QueueFullError(ServiceError):
    """Too many requests are waiting.

    Attributes:
        retry_after_s: seconds until there may be a place; None: not known.
    """

    retry_after_s: int | None = None


class GrammarBusyError(QueueFullError, GrammarError):
    """A grammar that is not compiled or followed, through no fault of its own: others use the time or the memory."""


class DrainingError(ServiceError):
    """The server is shutting down."""


class RequestTimeoutError(ServiceError):
    """A request took longer than it may."""


class EngineFailedError(ServiceError):
    """Something broke inside the engine."""
