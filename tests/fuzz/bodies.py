"""Changed JSON requests to a live server: an answer every time, never a 5xx, and the server stays well.

An input is the path, a line end, and the body.
"""

from __future__ import annotations

import json
import random

import httpx

from fuzz.mutate import bad_json, dumped, mutated
from fuzz.served import ALLOWED, Watched
from fuzz.target import SECONDS, SEEDS


class Bodies:
    """See the module."""

    name = "bodies"

    def __init__(self) -> None:
        self._watched = Watched()
        self._good = [file.read_bytes() for file in sorted((SEEDS / "bodies").iterdir())]

    def seeds(self) -> list[bytes]:
        """See `Target`."""
        return list(self._good)

    def make(self, rng: random.Random) -> bytes:
        """See `Target`."""
        path, _, body = rng.choice(self._good).partition(b"\n")
        value = mutated(rng, json.loads(body))
        data = dumped(value) if rng.random() < 0.75 else bad_json(rng, value)
        return path + b"\n" + data

    def attempt(self, data: bytes) -> str | None:
        """See `Target`."""
        path, _, body = data.partition(b"\n")
        try:
            answer = self._watched.client.post(
                path.decode(), content=body, headers={"content-type": "application/json"}
            )
        except httpx.HTTPError as error:
            return self._watched.checked(f"{type(error).__name__} in {SECONDS * 3} s: {error}")
        wrong = None
        if answer.status_code >= 500 and answer.status_code not in ALLOWED:
            wrong = f"{answer.status_code}: {answer.text[:300]}"
        elif answer.status_code >= 400 and not explained(answer):
            wrong = f"{answer.status_code} without a reason: {answer.text[:300]}"
        return self._watched.checked(wrong)

    def close(self) -> str | None:
        """See `Target`."""
        return self._watched.close()


def explained(answer: httpx.Response) -> bool:
    """Whether an error names its reason, and nothing from inside."""
    try:
        error = answer.json()["error"]
        message = error if isinstance(error, str) else error["message"]  # Ollama's errors are a string
    except (ValueError, KeyError, TypeError):
        return False
    return bool(message) and not any(word in message for word in ("Traceback", "panic", "0x7f"))
