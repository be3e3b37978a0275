"""Several engines behind one address: Ray Serve places and watches them, streams outlive the replica they began on.

``geminate fleet up`` starts a fleet; ``serve run geminate.fleet:app`` runs the same application on a cluster.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "app":
        from geminate.fleet.deployments import application

        return application()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
