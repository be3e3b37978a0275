"""API keys: where they come from, and the check on every route except liveness and the static page."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from geminate.errors import ParameterError
from geminate.server.http.errors import unauthorized, wrong_host
from geminate.server.http.logs import log
from geminate.server.settings import Settings, is_loopback

KEYS_ENV = "GEMINATE_API_KEYS"
OPEN_PATHS = ("/health/live", "/")
OPEN_PREFIX = "/page/"
_PORT = re.compile(r":\d*$")


def load_keys(settings: Settings, env: Mapping[str, str] | None = None) -> list[str]:
    """API keys from the file and the environment.

    Raises:
        ParameterError: a file that cannot be read or holds no key, a key that cannot be sent in a header, or a
            non-loopback address without keys.
    """
    env = os.environ if env is None else env
    keys = [key.strip() for key in env.get(KEYS_ENV, "").split(",") if key.strip()]
    if KEYS_ENV in env and not keys:
        raise ParameterError(f"{KEYS_ENV} is set but holds no key; unset it or add a key")
    if settings.api_key_file is not None:
        path = Path(settings.api_key_file)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            # The ACL on a systemd credential shows as readable by the group.
            credential = str(path.parent) == env.get("CREDENTIALS_DIRECTORY")
            if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH) and not credential:
                log("warning", "the API key file is readable by others; chmod 600 it", path=str(path))
        except UnicodeDecodeError as error:
            raise ParameterError(f"the API key file {path} is not UTF-8 (byte {error.start})") from error
        except OSError as error:
            raise ParameterError(f"cannot read the API key file {path}: {error.strerror}") from error
        found = [line.split("#", 1)[0].strip() for line in lines]
        found = [key for key in found if key]
        if not found:
            raise ParameterError(f"the API key file {path} holds no key; write one key per line")
        keys.extend(found)
    for key in keys:
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ParameterError("an API key must be printable ASCII without spaces")
    if not keys and not is_loopback(settings.host) and not settings.allow_unauthenticated:
        raise ParameterError(
            f"refusing to listen on {settings.host}, which other machines can reach, without API keys: pass "
            f"--api-key-file, set {KEYS_ENV}, or pass --allow-unauthenticated"
        )
    return keys


class Keys:
    """Compares a key with all known ones in constant time."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def known(self, key: bytes) -> bool:
        """Whether the key is known; it is compared with every known key, match or not."""
        digest = hashlib.sha256(key).digest()
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found


class AuthMiddleware:
    """Rejects requests without a known API key with 401.

    Without keys on a loopback address it rejects requests whose Host header names another machine with 403: such a
    request can come from a web page whose domain was made to resolve to this machine (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, keys: Keys, settings: Settings) -> None:
        self.app, self.keys = app, keys
        self._hosts = frozenset(name.lower() for name in settings.allowed_host)
        self._check_host = not keys and is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._open(scope):
            if self.keys and not self._known(scope):
                await unauthorized().response()(scope, receive, send)
                return
            if self._check_host and (host := self._foreign_host(scope)) is not None:
                await wrong_host(host).response()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _foreign_host(self, scope: Scope) -> str | None:
        """The first Host header, without its port, that is neither this machine nor allowed."""
        for name, value in scope["headers"]:
            if name == b"host":
                host = _PORT.sub("", value.decode("latin-1").strip().lower())
                if not (host in self._hosts or is_loopback(host)):
                    return host
        return None

    @staticmethod
    def _open(scope: Scope) -> bool:
        path: str = scope["path"]
        return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)

    def _known(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and self.keys.known(key.strip())
