"""Keys on every route but liveness and the static page; where they come from; other hosts' names."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from geminate.errors import ParameterError
from geminate.server.app import create_app
from geminate.server.http.auth import Keys, load_keys
from geminate.server.settings import Settings
from support.cli import refused

ROUTES = [
    ("GET", "/health/ready"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/v1/models"),
    ("GET", "/v1/models/x"), ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("POST", "/v1/responses"),
    ("POST", "/v1/messages"), ("POST", "/v1/messages/count_tokens"), ("POST", "/api/chat"), ("POST", "/api/generate"),
    ("GET", "/api/tags"), ("GET", "/api/ps"), ("POST", "/api/show"), ("GET", "/api/version"), ("POST", "/api/pull"),
    ("POST", "/tokenize"), ("POST", "/detokenize"), ("GET", "/nothing"), ("GET", "/v1"), ("OPTIONS", "/v1/models"),
    ("GET", "/health/live/"), ("GET", "/health/../metrics"),
]  # fmt: skip


def request(app: Any, method: str, path: str, headers: Any = None) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(send())


@pytest.fixture(scope="module")
def app() -> Any:
    """Not loaded: what passes the key check gets 503 or 404."""
    return create_app(None, None, Settings(), keys=["first-key", "second-key"])


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_needs_a_key(app: Any, method: str, path: str) -> None:
    for headers in (
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic first-key"},
        {"authorization": "first-key"},
        {"authorization": "Bearer first-key2"},
        {"x-api-key": "first-key2"},
        {"x-api-key": "Bearer first-key"},
        [("x-api-key", "first-key"), ("x-api-key", "first-key")],
        [("authorization", "Bearer wrong"), ("x-api-key", "first-key")],
        [("authorization", "Bearer wrong"), ("authorization", "Bearer first-key")],
        {"authorization": b"Bearer \xff\xfe"},
    ):
        answer = request(app, method, path, headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", headers
        assert "missing or unknown API key" in answer.text
    for key in ("first-key", "second-key"):
        for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
            assert request(app, method, path, headers).status_code != 401


def test_liveness_and_page_need_none(app: Any) -> None:
    assert request(app, "GET", "/health/live").status_code == 200
    for path in ("/", "/page/app.js"):
        assert request(app, "GET", path).status_code in (200, 404)


def test_without_a_model_it_is_not_ready() -> None:
    app = create_app(None, None, Settings())
    for method, path in (("GET", "/health/ready"), ("GET", "/v1/models"), ("POST", "/v1/completions")):
        answer = request(app, method, path)
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "loading"
        assert int(answer.headers["retry-after"]) > 0


def test_all_keys_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """An early return would tell by its time which key matched."""
    import hmac

    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(1) or real(a, b))
    keys = Keys(["a", "b", "c"])
    for given, known in ((b"a", True), (b"c", True), (b"d", False)):
        compared.clear()
        assert keys.known(given) is known and len(compared) == 3


def test_sources_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    keys = ["key-of-somebody-1", "pw#4kJ93hfk39-long", "key-of-somebody-3", "key-of-somebody-4"]
    file.write_text(f"# people\n{keys[2]}\n\n  {keys[3]}   # the second\n{keys[1]}\n")
    file.chmod(0o600)
    found = load_keys(Settings(api_key_file=str(file)), {"GEMINATE_API_KEYS": f"{keys[0]}, "})
    assert found == [keys[0], keys[2], keys[3], keys[1]], "a # inside a key is part of it"
    assert load_keys(Settings(), {}) == []


def test_bad_keys_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    for content, says in ((b"# nothing\n", "holds no key"), (b"\xff", "not UTF-8"), (b"two words\n", "without spaces"),
                          (b"short\n", "at least 16")):  # fmt: skip
        file.write_bytes(content)
        with pytest.raises(ParameterError, match=says):
            load_keys(Settings(api_key_file=str(file)), {})
    with pytest.raises(ParameterError, match="cannot read"):
        load_keys(Settings(api_key_file=str(tmp_path / "none")), {})
    with pytest.raises(ParameterError, match="holds no key"):
        load_keys(Settings(), {"GEMINATE_API_KEYS": " , "})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_no_open_door_without_being_asked(host: str) -> None:
    with pytest.raises(ParameterError, match="without API keys"):
        load_keys(Settings(host=host), {})
    assert load_keys(Settings(host=host), {"GEMINATE_API_KEYS": "k" * 16}) == ["k" * 16]
    assert load_keys(Settings(host=host, allow_unauthenticated=True), {}) == []
    for local in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert load_keys(Settings(host=local), {}) == []


def test_the_command_refuses_too() -> None:
    refused("serve", "--host", "0.0.0.0", "--port", "0", says="without API keys")


def test_a_page_whose_name_points_here_is_refused() -> None:
    app = create_app(None, None, Settings(allowed_host=("proxy.example",)))
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example"):
        answer = request(app, "GET", "/v1/models", {"host": host})
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "host_not_allowed"
        assert f"--allowed-host {host.removesuffix(':8000')};" in answer.json()["error"]["message"]
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "proxy.example", "Proxy.Example:443"):
        assert request(app, "GET", "/v1/models", {"host": host}).status_code == 503
    shared = create_app(None, None, Settings(host="0.0.0.0", allow_unauthenticated=True))
    assert request(shared, "GET", "/v1/models", {"host": "rebind.evil.example"}).status_code == 403
    for host in ("192.168.1.5:8000", "[fe80::1]:8000", "localhost"):
        assert request(shared, "GET", "/v1/models", {"host": host}).status_code == 503
    with_key = create_app(None, None, Settings(), keys=["k"])
    answer = request(with_key, "GET", "/v1/models", {"host": "evil.example", "authorization": "Bearer k"})
    assert answer.status_code == 503


def test_pages_of_other_origins_are_refused_without_keys() -> None:
    app = create_app(None, None, Settings(allowed_host=("proxy.example",), cors_origin=("https://a.example",)))
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9"):
        answer = request(app, "POST", "/v1/completions", {"host": "127.0.0.1:8000", "origin": origin})
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "origin_not_allowed"
    for origin in ("http://127.0.0.1:8000", "https://a.example", "https://proxy.example"):
        assert request(app, "POST", "/v1/completions", {"host": "127.0.0.1:8000", "origin": origin}).status_code == 503
    keyed = create_app(None, None, Settings(), keys=["k"])
    headers = {"host": "127.0.0.1:8000", "origin": "http://evil.example", "authorization": "Bearer k"}
    assert request(keyed, "POST", "/v1/completions", headers).status_code == 503


def test_cors_is_off_unless_asked_for() -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    closed = create_app(None, None, Settings(), keys=["k"])
    assert "access-control-allow-origin" not in request(closed, "OPTIONS", "/v1/models", asked).headers
    opened = create_app(None, None, Settings(cors_origin=("https://a.example",)), keys=["k"])
    answer = request(opened, "OPTIONS", "/v1/models", asked)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://a.example"
    other = request(opened, "OPTIONS", "/v1/models", {**asked, "origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


def test_a_key_file_that_others_can_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text("secret-of-16-characters\n")
    settings = Settings(api_key_file=str(file))
    monitored = {"secret": (0o600, {}, False), "open": (0o644, {}, True)}
    # The ACL on a systemd credential shows as readable by the group.
    monitored["credential"] = (0o640, {"CREDENTIALS_DIRECTORY": str(tmp_path)}, False)
    for mode, env, warned in monitored.values():
        caplog.clear()
        file.chmod(mode)
        assert load_keys(settings, env) == ["secret-of-16-characters"]
        assert ("readable by others" in caplog.text) == warned, oct(mode)
