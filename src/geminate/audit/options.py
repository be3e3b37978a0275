"""The options of an audit log, declared once for the server and `geminate generate`."""

from __future__ import annotations

from dataclasses import dataclass, field

from geminate.errors import ParameterError
from geminate.sizes import parse_size

CONTENT = ("hashes", "ids", "requests")
FSYNC = ("always", "interval", "never")
FAILURE = ("refuse", "serve")
LEAST_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """Where an audit log stands and what it holds.

    A field's metadata make its command-line option; see `geminate.loading.options.LoadOptions`.

    Attributes:
        audit_log: the file; None writes none. Rotated ones beside it are ``FILE.000012345``, by their last line.
        audit_content: ``hashes`` of prompts and answers alone; their token ``ids`` too, which can be replayed and read
            back into text; or also the ``requests`` as they were received.
        audit_fsync: when lines are forced to the disk: ``always``, once a second (``interval``), or ``never``, which
            leaves it to the system.
        audit_failure: while no line can be written, a server refuses requests (``refuse``) or goes on (``serve``).
        audit_file_bytes: from which size on the file is rotated, an integer or a size such as ``64MiB``.

    Raises:
        ParameterError: a value outside its range.
    """

    audit_log: str | None = field(
        default=None,
        metadata={"help": "Write a chained line for every request to this file, see docs/audit.md.", "empty": "none"},
    )
    audit_content: str = field(
        default="hashes",
        metadata={
            "help": "What the audit log holds of prompts and answers: hashes; ids, their token ids, which can be "
            "replayed; or requests, the bodies too."
        },
    )
    audit_fsync: str = field(
        default="interval",
        metadata={"help": "Force the audit log's lines to the disk: always, at an interval of a second, or never."},
    )
    audit_failure: str = field(
        default="refuse",
        metadata={
            "help": "While the audit log cannot be written: refuse requests with 503, or serve them; lines beyond 64 "
            "MiB are lost then, and counted."
        },
    )
    audit_file_bytes: int | str = field(
        default=64 << 20,
        metadata={"help": "Size from which on the audit log is continued in a new file.", "empty": "64 MiB"},
    )

    def __post_init__(self) -> None:
        for name, legal in (("audit_content", CONTENT), ("audit_fsync", FSYNC), ("audit_failure", FAILURE)):
            if getattr(self, name) not in legal:
                raise ParameterError(f"{name} must be one of {', '.join(legal)}, not {getattr(self, name)!r}")
        if self.audit_log is not None and not self.audit_log.strip():
            raise ParameterError("audit_log must not be empty; name a file")
        size = self.audit_file_bytes
        if isinstance(size, str):
            size = parse_size("audit_file_bytes", size)
            object.__setattr__(self, "audit_file_bytes", size)
        if isinstance(size, bool) or not isinstance(size, int) or size < LEAST_BYTES:
            raise ParameterError(f"audit_file_bytes must be at least {LEAST_BYTES} bytes, not {size!r}")

    @property
    def file_bytes(self) -> int:
        """``audit_file_bytes`` as a number."""
        assert isinstance(self.audit_file_bytes, int)  # `__post_init__` has read it
        return self.audit_file_bytes
