"""What the fleet uses of Ray beside its public interface: another version of Ray has to fail here, not in use."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import pytest

from geminate.errors import BackendError

ray = pytest.importorskip("ray", reason="ray[serve] is not installed: pip install '.[fleet]'")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own


def test_the_extra_allows_this_version_only() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert "ray[serve]>=2.60,<2.61" in project["optional-dependencies"]["fleet"]
    assert ray.__version__.startswith("2.60."), "look at loopback.py, ray_link.py and router.py, then at the bounds"


def test_the_port_between_deployments_is_opened_as_it_is_known() -> None:
    """`loopback.stay_on_loopback` replaces the function that opens it, where it is called."""
    from ray.serve._private import replica

    source = inspect.getsource(replica)
    assert source.count('add_port_to_grpc_server(self._server, "[::]:0")') == 1
    assert source.count("add_port_to_grpc_server(") == 1 and callable(replica.add_port_to_grpc_server)


def test_calls_go_from_process_to_process() -> None:
    from ray.serve.handle import DeploymentHandle
    from ray.serve.request_router import PendingRequest, RequestRouter

    assert "_by_reference" in inspect.signature(DeploymentHandle.options).parameters
    assert {"args", "kwargs", "metadata"} <= set(PendingRequest.__dataclass_fields__)
    for name in ("choose_replicas", "update_replicas", "on_request_routed", "on_replica_actor_died"):
        assert callable(getattr(RequestRouter, name))


def test_another_version_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from geminate.fleet import loopback

    monkeypatch.setattr(ray, "__version__", "2.99.0")
    with pytest.raises(BackendError, match=r"Ray 2\.99\.0 .* needs Ray 2\.60"):
        loopback.stay_on_loopback()
