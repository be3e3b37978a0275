"""The log for people at a terminal: time, message, then the fields."""

from __future__ import annotations

import logging
import unicodedata
from datetime import datetime
from typing import Any

MAX_LINE = 2000  # characters


class TextFormatter(logging.Formatter):
    """Formats a record as a line of text; records with ``lines`` have these below it."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        fields: dict[str, Any] = dict(getattr(record, "fields", {}))
        message = " ".join(record.getMessage().split())
        if message == "request":
            message = "{method} {path} {status} in {seconds} s".format_map(_Taken(fields))
        lines = getattr(record, "lines", ())
        shown = [] if lines else [f"{name}={value}" for name, value in fields.items() if value is not None]
        text = _printable(" ".join([f"{clock} {level}{message}", *shown]))
        parts = [text, *(f"         {_printable(line)}" for line in lines)]
        if record.exc_info:
            parts.append(self.formatException(record.exc_info))
        return "\n".join(parts)


class _Taken(dict[str, Any]):
    """Fields that are named in a text and need not be listed behind it."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.fields = fields

    def __getitem__(self, name: str) -> Any:
        return self.fields.pop(name, "?")


def _printable(text: str) -> str:
    """Text without what a terminal would act on: clients choose paths."""
    shown = "".join(c if not unicodedata.category(c).startswith("C") else ascii(c)[1:-1] for c in text)
    return shown if len(shown) <= MAX_LINE else f"{shown[:MAX_LINE]}..."
