"""Keeps a fleet of one machine to that machine, also where Ray Serve has no setting for it."""

from __future__ import annotations

from typing import Any

import ray
from ray.serve._private import replica

from geminate.errors import BackendError

LOOPBACK = "127.0.0.1"
RAY = "2.60"  # its private function is replaced here; tests/fleet/test_ray_version.py looks whether it is the same


def stay_on_loopback() -> None:
    """Let this process's server for calls between deployments listen on 127.0.0.1 if Ray's node is there.

    Ray Serve opens it on all addresses, after the constructor of a deployment, and it takes pickled messages.

    Raises:
        BackendError: a version of Ray of which nobody knows how it opens it.
    """
    if not ray.__version__.startswith(f"{RAY}."):
        raise BackendError(f"Ray {ray.__version__} is installed, and a fleet needs Ray {RAY}: pip install '.[fleet]'")
    if ray.util.get_node_ip_address() != LOOPBACK:
        return
    add = replica.add_port_to_grpc_server

    def add_here(server: Any, address: str) -> Any:
        return add(server, address.replace("[::]:", f"{LOOPBACK}:"))

    replica.add_port_to_grpc_server = add_here
