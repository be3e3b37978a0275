"""Settings: flags before environment before file before defaults, and every bad one refused with its source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from geminate.cli import serve
from geminate.errors import ParameterError
from geminate.server.settings import Settings, is_loopback, rows
from geminate.server.sources import load_settings
from support.cli import geminate, refused


def test_order_of_sources(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('port = 1\nmax_running = 2\nhost = "::1"\nkv_bytes = "2GiB"\nalias = ["a", "b"]\npage = false\n')
    env = {
        "GEMINATE_SERVE_PORT": "3",
        "GEMINATE_SERVE_MAX_RUNNING": "4",
        "GEMINATE_SERVE_CONFIG": str(file),
        "HOME": "/",
    }
    found = load_settings({"port": 5, "alias": [], "max_waiting": None}, env=env)
    assert (found.port, found.max_running, found.host, found.max_waiting) == (5, 4, "::1", 64)
    assert (found.kv_bytes, found.alias, found.page) == (2 << 30, ("a", "b"), False)
    assert load_settings({}, env={}) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("kv_bytes", "512 MiB", 512 << 20),
        ("kv_bytes", "1000", 1000),
        ("prefix_cache", "off", False),
        ("threads", "2", 2),
        ("request_seconds", "1.5", 1.5),
        ("alias", "a, b", ("a", "b")),
        ("max_body_bytes", "64k", 65536),
    ],
)
def test_texts(name: str, text: str, value: object) -> None:
    assert getattr(load_settings(env={f"GEMINATE_SERVE_{name.upper()}": text}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", "x"), ("port", "70000"), ("port", "-1"), ("max_running", "0"), ("prefix_cache", "maybe"),
     ("kv_bytes", "much"),
     ("request_seconds", "nan"), ("request_seconds", "0"), ("rope_position", "Q"), ("weights", "int3"),
     ("speculation", "17"), ("max_body_bytes", "10"), ("threads", "0")],
)  # fmt: skip
def test_bad_values_name_their_source(tmp_path: Path, name: str, value: str) -> None:
    variable = f"GEMINATE_SERVE_{name.upper()}"
    with pytest.raises(ParameterError, match=variable):
        load_settings(env={variable: value})


def test_bad_files(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    for text, says in (
        ("prot = 1", "no setting 'prot'; did you mean 'port'"),
        ('port = "x"', "port must be an integer"),
        ("port = true", "port must be an integer"),
        ("port = 1.5", "integer"),
        ("alias = 3", "a list"),
        ("host = 3", "a string"),
        ("[server]\nport = 1", "no setting 'server'"),
        ("port = ", "not valid TOML"),
    ):
        file.write_text(text)
        with pytest.raises(ParameterError, match=says) as caught:
            load_settings(env={}, config=file)
        assert str(file) in str(caught.value)
    with pytest.raises(ParameterError, match="cannot read"):
        load_settings(env={}, config=tmp_path / "none.toml")
    with pytest.raises(ParameterError, match="GEMINATE_SERVE_PROT"):
        load_settings(env={"GEMINATE_SERVE_PROT": "1"})


def test_the_command_has_every_setting() -> None:
    done = geminate("serve", "--help", env={"COLUMNS": "200", "TERM": "dumb"})
    for row in rows():
        if row.name != "model":
            assert row.flag.split("/")[0] in done.stdout, row.flag
    refused("serve", "--port", "70000", says="--port")
    refused("serve", env={"GEMINATE_SERVE_PORT": "x"}, says="GEMINATE_SERVE_PORT")


def test_loopback() -> None:
    assert all(is_loopback(h) for h in ("127.0.0.1", "::1", "localhost", "127.1.2.3"))
    assert not any(is_loopback(h) for h in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command is there without the extra, and says what to install."""
    monkeypatch.setattr(serve, "NEEDS", ("no_such_package",))
    with pytest.raises(typer.Exit) as caught:
        serve.command()(config=None, model=None, model_option=None)
    assert caught.value.exit_code == 2
    said = capsys.readouterr().err
    assert "no_such_package" in said and ".[server]" in said


def test_the_command_line_needs_no_extra() -> None:
    """Nothing of the web framework is imported before it is needed."""
    heavy = ("fastapi", "uvicorn", "pydantic", "prometheus_client", "llguidance")
    code = f"import sys; import geminate.cli.app; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
