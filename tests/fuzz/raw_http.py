"""Changed HTTP at the socket (heads, chunked bodies, pipelines): answered or closed in time, the server stays well."""

from __future__ import annotations

import random
import re
import socket
import time

from fuzz.mutate import damaged
from fuzz.served import ALLOWED, Watched
from fuzz.target import SECONDS, SEEDS

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
HEADERS = [
    b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, gzip", b"Expect: 100-continue", b"Upgrade: websocket", b"Connection: close",
    b"Connection: keep-alive, x", b"Host: a", b"Host:", b"Content-Encoding: gzip", b"X: " + b"y" * 70_000,
    b" folded: x", b"A\x00B: c", b"Authorization: Bearer \xff", b"Content-Type: application/json; charset=utf-16",
    b"Range: bytes=0-0," + b"1-1," * 500, b"Accept: text/html", b"If-None-Match: *",
]  # fmt: skip
CHUNKS = [
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\nx",
    b"-1\r\n",
    b"5;a=b\r\nhello\r\n",
    b"5\r\nhelloXX",
    b"5 \r\n",
]
LINES = [
    b"GET /health/live HTTP/1.1", b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET http://[::1 HTTP/1.1",
    b"GET /%zz HTTP/1.1", b"POST /v1/chat/completions HTTP/1.0", b"PRI * HTTP/2.0", b"CONNECT a:1 HTTP/1.1",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1", b"GET /../../etc/passwd HTTP/1.1",
    b"HEAD / HTTP/1.1", b"GET /\xff HTTP/1.1",
]  # fmt: skip


class RawHttp:
    """See the module."""

    name = "raw_http"

    def __init__(self) -> None:
        self._watched = Watched("--head-seconds", "2", "--body-seconds", "2", "--idle-seconds", "2")
        self._good = [file.read_bytes() for file in sorted((SEEDS / "raw_http").iterdir())]

    def seeds(self) -> list[bytes]:
        """See `Target`."""
        return list(self._good)

    def make(self, rng: random.Random) -> bytes:
        """See `Target`."""
        data = rng.choice(self._good)
        for _ in range(rng.randint(1, 3)):
            data = self._changed(rng, data)
        return data

    def _changed(self, rng: random.Random, data: bytes) -> bytes:
        head, end, rest = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        kind = rng.random()
        if kind < 0.3:
            lines.insert(rng.randint(1, len(lines)), rng.choice(HEADERS))
        elif kind < 0.45:
            lines[0] = rng.choice(LINES)
        elif kind < 0.55 and len(lines) > 1:
            lines.pop(rng.randrange(len(lines)))
        elif kind < 0.7:
            rest = rest + rng.choice(CHUNKS) if rng.random() < 0.5 else rng.choice(CHUNKS) + rest
        elif kind < 0.8:
            return data + rng.choice(self._good)
        else:
            return damaged(rng, data)
        return b"\r\n".join(lines) + end + rest

    def attempt(self, data: bytes) -> str | None:
        """See `Target`."""
        started, answer = time.monotonic(), b""
        try:
            with socket.create_connection(("127.0.0.1", self._watched.served.port), timeout=SECONDS * 3) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    answer += part
        except TimeoutError:
            return self._watched.checked(f"neither an answer nor an end in {SECONDS * 3} s")
        except OSError:
            pass  # closed before all was sent: also an answer
        wrong = None
        codes = [int(code) for code in STATUS.findall(answer)]
        if answer and not STATUS.match(answer):
            wrong = f"no HTTP: {answer[:100]!r}"
        elif bad := [code for code in codes if code >= 500 and code not in ALLOWED]:
            wrong = f"answers {bad}"
        elif time.monotonic() - started > SECONDS * 2:
            wrong = f"closed after {time.monotonic() - started:.0f} s"
        return self._watched.checked(wrong)

    def close(self) -> str | None:
        """See `Target`."""
        return self._watched.close()
