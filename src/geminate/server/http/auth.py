"""API keys: where they come from, and the check on every route except liveness and the static page."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from geminate.errors import ParameterError
from geminate.server.http.errors import unauthorized, wrong_host, wrong_origin
from geminate.server.http.logs import context_of, log
from geminate.server.settings import Settings, is_loopback

KEYS_ENV = "GEMINATE_API_KEYS"
OPEN_PATHS = ("/health/live", "/", "/docs")
OPEN_PREFIX = "/page/"
MIN_KEY = 16  # characters; shorter keys can be guessed
MAX_NAME = 100  # characters
_COMMENT = re.compile(r"(^|\s)#.*$")
_PORT = re.compile(r":\d*$")


class ApiKey(str):
    """A key of a file; the comment behind it is its name, for the audit log."""

    name: str | None = None

    @classmethod
    def of_line(cls, line: str) -> ApiKey:
        """The key of a line; empty if there is none."""
        key, comment = cls(_COMMENT.sub("", line).strip()), _COMMENT.search(line)
        if comment is not None:
            key.name = comment[0].strip().lstrip("#").strip()[:MAX_NAME] or None
        return key


def load_keys(settings: Settings, env: Mapping[str, str] | None = None) -> list[str]:
    """API keys from the file and the environment; those of the file have names, see `ApiKey`.

    Raises:
        ParameterError: a file that cannot be read or holds no key, a key that cannot be sent in a header, or a
            non-loopback address without keys.
    """
    env = os.environ if env is None else env
    keys = [key.strip() for key in env.get(KEYS_ENV, "").split(",") if key.strip()]
    from_env = frozenset(keys)
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
        found = [key for key in map(ApiKey.of_line, lines) if key]
        if not found:
            raise ParameterError(f"the API key file {path} holds no key; write one key per line")
        keys.extend(found)
    for key in keys:
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ParameterError("an API key must be printable ASCII without spaces")
        if len(key) < MIN_KEY:
            raise ParameterError(
                f"an API key of {KEYS_ENV if key in from_env else settings.api_key_file} has {len(key)} characters, at "
                f"least {MIN_KEY} are needed; make one with "
                "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
    if not keys and not is_loopback(settings.host) and not settings.allow_unauthenticated:
        raise ParameterError(
            f"refusing to listen on {settings.host}, which other machines can reach, without API keys: pass "
            f"--api-key-file, set {KEYS_ENV}, or pass --allow-unauthenticated"
        )
    return keys


def _is_address(host: str) -> bool:
    """Whether a Host header is an IP address: no name that could be made to resolve to another machine."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


class Keys:
    """Compares a key with all known ones in constant time."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.replace(keys)

    def replace(self, keys: Iterable[str]) -> None:
        """Know these keys from now on, and no others."""
        named = {hashlib.sha256(key.encode()).digest(): getattr(key, "name", None) for key in keys}
        self._digests, self._names = list(named), named

    def __bool__(self) -> bool:
        return bool(self._digests)

    @property
    def count(self) -> int:
        """Number of known keys."""
        return len(self._digests)

    def name(self, key: bytes) -> str | None:
        """The name of a known key, if it has one."""
        return self._names.get(hashlib.sha256(key).digest())

    def known(self, key: bytes) -> bool:
        """Whether the key is known; it is compared with every known key, match or not."""
        digest = hashlib.sha256(key).digest()
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found


def _tell_connection(scope: Scope, accepted: bool) -> None:
    """Tell the connection of this request, if it comes over one of ours, whether its key is known."""
    judged = scope.get("state", {}).get("judged")
    if judged is not None:
        judged(accepted)


def _given_key(scope: Scope) -> bytes | None:
    """The key in the Authorization header, or without that header in Anthropic's x-api-key; None if not exactly one."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if not given:
        plain = [value.strip() for name, value in scope["headers"] if name == b"x-api-key"]
        return plain[0] if len(plain) == 1 else None
    scheme, _, key = given[0].partition(b" ")
    return key.strip() if len(given) == 1 and scheme.lower() == b"bearer" else None


class AuthMiddleware:
    """Rejects requests without a known API key with 401.

    Without keys it rejects, with 403, requests whose Host header is a name other than this machine's, which a web page
    sends whose domain was made to resolve to this machine (DNS rebinding), and requests from pages of other origins.
    """

    def __init__(self, app: ASGIApp, keys: Keys, settings: Settings) -> None:
        self.app, self.keys = app, keys
        self._hosts = frozenset(name.lower() for name in settings.allowed_host)
        self._origins = frozenset(settings.cors_origin)
        if not is_loopback(settings.host):
            self._hosts |= {socket.gethostname().lower()}
        self._addresses = not is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._open(scope):
            accepted = self._known(scope) if self.keys else True
            _tell_connection(scope, accepted)
            if not accepted:
                await unauthorized().response()(scope, receive, send)
                return
            if not self.keys:
                if (host := self._foreign_host(scope)) is not None:
                    await wrong_host(host).response()(scope, receive, send)
                    return
                if (origin := self._foreign_origin(scope)) is not None:
                    await wrong_origin(origin).response()(scope, receive, send)
                    return
        await self.app(scope, receive, send)

    def _foreign_host(self, scope: Scope) -> str | None:
        """The first Host header, without its port, that is neither this machine nor allowed."""
        for name, value in scope["headers"]:
            if name == b"host":
                host = _PORT.sub("", value.decode("latin-1").strip().lower())
                if not (host in self._hosts or is_loopback(host) or (self._addresses and _is_address(host))):
                    return host
        return None

    def _foreign_origin(self, scope: Scope) -> str | None:
        """The Origin header, if it is neither the Host's nor allowed; browsers send it with every POST."""
        headers = {name: value.decode("latin-1").strip() for name, value in scope["headers"]}
        origin = headers.get(b"origin")
        if origin is None or "*" in self._origins or origin in self._origins:
            return None
        place = origin.partition("://")[2].lower()
        known = place == headers.get(b"host", "").lower() or _PORT.sub("", place) in self._hosts
        return None if known else origin

    @staticmethod
    def _open(scope: Scope) -> bool:
        path: str = scope["path"]
        return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)

    def _known(self, scope: Scope) -> bool:
        key = _given_key(scope)
        if key is None or not self.keys.known(key):
            return False
        context = context_of(scope)
        context.client, context.key_name = hashlib.sha256(key).hexdigest()[:16], self.keys.name(key)
        return True
