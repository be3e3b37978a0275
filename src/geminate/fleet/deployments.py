"""The application of a fleet for Ray Serve: a deployment of replicas for each model, and the ingress."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from geminate.engine.messages import EngineRequest
from geminate.errors import BackendError
from geminate.fleet.board import board_of
from geminate.fleet.config import FleetConfig, ModelConfig, load_fleet
from geminate.fleet.cores import pin
from geminate.fleet.ingress import IngressApp
from geminate.fleet.loopback import stay_on_loopback
from geminate.fleet.messages import Batch
from geminate.fleet.proof import Proof, Register, fixed_run
from geminate.fleet.ray_link import RayLink
from geminate.fleet.replica import ReplicaEngine
from geminate.llm import LLM
from geminate.server.http.logs import configure, log
from geminate.server.state import fingerprint

REGISTER, NAMESPACE = "geminate-register", "geminate"
HEALTH_S = 2.0  # between two health checks of a replica
GREETING_S = 2.0  # between two attempts to reach a model's first replica
ONGOING = 100_000  # requests at a time: the ingress bounds them itself
QUIET = LoggingConfig(enable_access_log=False)


class EngineReplica:
    """A deployment: one engine."""

    def __init__(self, model: ModelConfig, pinned: bool) -> None:
        settings = model.settings
        stay_on_loopback()
        configure(settings.log_format)
        name = serve.get_replica_context().replica_id.unique_id
        cores = pin(settings.threads or 1) if pinned else []
        llm = LLM(**vars(settings.loading()), on_message=lambda message: log("info", message))
        proof = Proof(weights=fingerprint(llm), run=fixed_run(llm))
        refused = _refused(model, proof)
        if refused is not None:
            log("error", "this replica is not admitted", model=model.id, replica=name, reason=refused)
            raise BackendError(f"replica {name} of {model.id} is not admitted: {refused}")
        self._engine = ReplicaEngine(name, llm, settings, proof=proof.run)
        log("info", "replica ready", model=model.id, replica=name, proof=proof.run, cores=cores, pid=os.getpid())

    async def generate(self, request: EngineRequest, avoid: frozenset[str]) -> AsyncIterator[Batch]:
        """See `ReplicaEngine.generate`; ``avoid`` is for the router."""
        async with aclosing(self._engine.generate(request)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                yield batch

    async def greet(self) -> str:
        """Its name."""
        return self._engine.name

    def record_routing_stats(self) -> dict[str, Any]:
        """See Ray."""
        return self._engine.stats().as_dict()

    def check_health(self) -> None:
        """See Ray."""
        self._engine.check()


def _refused(model: ModelConfig, proof: Proof) -> str | None:
    """Why a replica with this proof may not take part; None: it may."""
    due = model.options.proof
    if due and due != proof.run:
        return f"its fixed run gives {proof.run[:12]} ({proof.weights}), and the configuration asks for {due[:12]}"
    register = ray.remote(Register).options(
        name=REGISTER, namespace=NAMESPACE, get_if_exists=True, num_cpus=0, lifetime="detached", max_restarts=-1
    )
    return cast(str | None, ray.get(register.remote().claim.remote(model.key, proof)))


class Ingress:
    """A deployment: the routes of `geminate serve`."""

    # Ray awaits it.
    async def __init__(self, config: FleetConfig, **handles: DeploymentHandle[Any]) -> None:  # type: ignore[misc]
        stay_on_loopback()
        configure(config.settings.log_format)
        by_name = {model.deployment: handles[f"handle_{i}"] for i, model in enumerate(config.models)}
        links = {  # made in the event loop, in which they route
            model.deployment: RayLink(by_name[model.deployment], board_of(model.deployment, model.settings.max_running))
            for model in config.models
        }
        self._app = await asyncio.to_thread(IngressApp, config, lambda model, board: links[model.deployment])
        self._greeting = [
            asyncio.create_task(_greet(self._app, model.id, by_name[model.deployment])) for model in config.models
        ]

    def __serve_build_asgi_app__(self) -> IngressApp:
        """See Ray."""
        return self._app


async def _greet(app: IngressApp, model_id: str, handle: DeploymentHandle[Any]) -> None:
    """Serve a model from its first replica's answer on."""
    while True:
        try:
            await handle.greet.remote()
            break
        except Exception as error:
            log("warning", "no replica answers yet", kind="greeting", model=model_id, reason=type(error).__name__)
            await asyncio.sleep(GREETING_S)
    app.ready(model_id)


def application(config: FleetConfig | None = None) -> serve.Application:
    """The application; without a configuration that of `load_fleet`."""
    config = config or load_fleet()
    models = {f"handle_{i}": _replicas(model, config) for i, model in enumerate(config.models)}
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=ONGOING,
        graceful_shutdown_timeout_s=config.settings.drain_seconds,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=QUIET,
    )
    return ingress.bind(config, **models)


def _replicas(model: ModelConfig, config: FleetConfig) -> serve.Application:
    settings, options = model.settings, model.options
    most = options.max_replicas or options.replicas
    scaling: dict[str, Any] = {"num_replicas": options.replicas}
    if most > options.replicas:
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=options.replicas, max_replicas=most, target_ongoing_requests=settings.max_running / 2
            )
        }
    return serve.deployment(
        EngineReplica,
        name=model.deployment,
        ray_actor_options={"num_cpus": settings.threads or 1},
        max_ongoing_requests=ONGOING,
        health_check_period_s=HEALTH_S,
        health_check_timeout_s=max(HEALTH_S, config.fleet.stall_seconds),
        graceful_shutdown_timeout_s=settings.drain_seconds,
        graceful_shutdown_wait_loop_s=0.2,
        request_router_config=RequestRouterConfig(
            request_router_class="geminate.fleet.router:PrefixRouter",
            request_router_kwargs={"max_running": settings.max_running},
            request_routing_stats_period_s=config.fleet.publish_seconds,
            request_routing_stats_timeout_s=max(1.0, config.fleet.publish_seconds),
        ),
        logging_config=QUIET,
        **scaling,
    ).bind(model, config.fleet.pin)
