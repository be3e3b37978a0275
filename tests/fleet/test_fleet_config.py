"""`fleet.toml`: what it may say, and what is wrong with one in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from geminate.cores import pick_threads
from geminate.errors import ParameterError
from geminate.fleet.config import CONFIG_ENV, SOCKET_LIMITS, load_fleet
from support.cli import refused

GOOD = """
[fleet]
retries = 5
stall_seconds = 7

[serve]
port = 8123
request_seconds = 90.0
max_choices = 4

[[model]]
model_id = "small"
replicas = 3
max_replicas = 5
threads = 1
kv_bytes = "64MiB"

[[model]]
model_id = "other"
alias = ["b"]
threads = 2
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    return path


def test_everything_is_read(tmp_path: Path) -> None:
    config = load_fleet(written(tmp_path, GOOD), overrides={"serve.port": 9000})
    assert (config.fleet.retries, config.fleet.stall_seconds) == (5, 7)
    small, other = config.models
    assert (small.id, small.options.replicas, small.options.max_replicas, small.settings.threads) == ("small", 3, 5, 1)
    assert small.settings.kv_bytes == 64 << 20 and other.settings.alias == ("b",)
    for model in config.models:
        assert (model.settings.port, model.settings.request_seconds, model.settings.max_choices) == (9000, 90.0, 4)
    assert config.threads == 3 * 1 + 2 * 2
    assert small.deployment != other.deployment and small.key != other.key


def test_without_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(CONFIG_ENV, raising=False)
    config = load_fleet()
    (model,) = config.models
    assert (model.id, model.options.replicas) == ("geminate-embedded", 2)
    assert model.settings.threads == max(1, pick_threads().count // 2)
    monkeypatch.setenv(CONFIG_ENV, str(written(tmp_path, GOOD)))
    assert load_fleet().settings.port == 8123


def test_a_revision_makes_another_model_of_it(tmp_path: Path) -> None:
    keys = [load_fleet(written(tmp_path, f'[[model]]\nrevision = "{r}"')).models[0].key for r in ("1", "1", "2")]
    assert keys[0] == keys[1] != keys[2]


BAD = {
    "[fleet": "is not valid TOML",
    "[fleets]": "there is no table [fleets]; did you mean [fleet]?",
    "fleet = 3": "fleet must be a table",
    "[model]": "model must be an array of tables: [[model]]",
    "model = []": "model must be an array of tables",
    "[fleet]\nretry = 1": "[fleet]: there is no key 'retry'; did you mean 'retries'?",
    "[fleet]\nretries = -1": "[fleet]: retries must be from 0 to 100, not -1",
    '[fleet]\nretries = "3"': "[fleet]: retries must be an integer, not '3'",
    "[fleet]\ndashboard = 1": "dashboard must be true or false, not 1",
    "[serve]\nthreads = 2": "[serve]: threads belongs to a model: put it into [[model]]",
    "[serve]\nprot = 1": "there is no setting 'prot'; did you mean 'port'?",
    "[serve]\nport = 99999": "port must be from 0 to 65535",
    "[[model]]\nport = 1": "[[model]] 1: port holds for all models: put it into [serve]",
    "[[model]]\nreplicas = 0": "replicas must be from 1 to 1000, not 0",
    "[[model]]\nreplicas = 4\nmax_replicas = 3": "max_replicas 3 is less than replicas 4",
    "[[model]]\nreplica = 4": "there is no setting 'replica'",
    '[[model]]\nkv = "f32"': "kv must be one of",
    "[[model]]\n[[model]]": "models need names of their own (model_id)",
    '[fleet]\naddress = "auto"': "on a cluster every [[model]] needs threads",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ParameterError) as error:
        load_fleet(path)
    said = str(error.value)
    assert BAD[text] in said and said.startswith(str(path)) and "\n" not in said


@pytest.mark.parametrize("name", SOCKET_LIMITS)
def test_limits_on_connections_need_a_socket_of_their_own(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, f"[serve]\n{name} = 5")
    assert getattr(load_fleet(path).settings, name) == 5
    with pytest.raises(ParameterError, match=f"{name} is a limit on connections, and under serve run"):
        load_fleet(path, listens=False)


def test_an_audit_log_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_fleet(written(tmp_path, '[serve]\naudit_log = "logs/audit.log"'))
    assert config.settings.audit_log == str(tmp_path / "logs" / "audit.log")


def test_the_command_ends_with_a_line(tmp_path: Path) -> None:
    refused("fleet", "up", "--config", str(tmp_path / "none.toml"), says="No such file")
    refused("fleet", "up", "--config", str(written(tmp_path, "[fleets]")), says="there is no table [fleets]")


def test_without_ray_the_command_says_what_to_install() -> None:
    refused("fleet", "up", says="pip install '.[fleet]'", prelude="import sys; sys.modules['ray'] = None")
