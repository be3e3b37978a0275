"""The application of a fleet for Ray Serve: a deployment of replicas for each model, and the ingress."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, cast

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from geminate.audit.fingerprints import weights_fingerprint
from geminate.engine.messages import EngineRequest
from geminate.errors import AuditLogInUseError, BackendError
from geminate.fleet.board import board_of
from geminate.fleet.config import FleetConfig, ModelConfig, load_fleet
from geminate.fleet.cores import pin
from geminate.fleet.ingress import IngressApp
from geminate.fleet.loopback import stay_on_loopback
from geminate.fleet.messages import Batch
from geminate.fleet.outbox import Outboxes, Parcel, Subscription, UnsubscribedError
from geminate.fleet.proof import Proof, Register, fixed_run
from geminate.fleet.ray_link import RayLink
from geminate.fleet.replica import ReplicaEngine
from geminate.llm import LLM
from geminate.server.http.logs import configure, log
from geminate.server.listen import AFTER_DRAIN_S, bind

REGISTER, NAMESPACE = "geminate-register", "geminate"
HEALTH_S = 2.0  # between two health checks of a replica
GREETING_S = 2.0  # between two attempts to reach a model's first replica
LOOK_BACK_S = 30.0  # over which the load is averaged for autoscaling
ONGOING = 100_000  # requests at a time: the ingress bounds them itself
NODE_SHARE = 0.001  # of a node's own resource, which says where something is to run
QUIET = LoggingConfig(enable_access_log=False, log_level="WARNING")


class EngineReplica:
    """A deployment: one engine."""

    def __init__(self, model: ModelConfig, pinned: bool) -> None:
        settings = model.settings
        stay_on_loopback()
        configure(settings.log_format)
        name = serve.get_replica_context().replica_id.unique_id
        cores = pin(settings.threads or 1) if pinned else []
        llm = LLM(**vars(settings.loading()), on_message=lambda message: log("info", message))
        proof = Proof(weights=weights_fingerprint(llm), run=fixed_run(llm))
        refused = _refused(model, proof)
        if refused is not None:
            log("error", "this replica is not admitted", model=model.id, replica=name, reason=refused)
            raise BackendError(f"replica {name} of {model.id} is not admitted: {refused}")
        self._engine = ReplicaEngine(name, llm, settings, proof=proof.run)
        self._outboxes = Outboxes()
        log("info", "replica ready", model=model.id, replica=name, proof=proof.run, cores=cores, pid=os.getpid())

    async def generate(self, request: EngineRequest, avoid: frozenset[str], ingress: str) -> int:
        """Answer a request; see `ReplicaEngine.answer`.

        Args:
            avoid: for the router. ingress: gets the batches with its `events`.

        Returns:
            the number of batches.
        """
        outbox, sent = await self._outboxes.of(ingress), itertools.count()

        def put(batch: Batch) -> None:
            next(sent)
            outbox.put(request.request_id, batch)

        tasks = [asyncio.ensure_future(one) for one in (self._engine.answer(request, put), outbox.gone.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not tasks[0].done():
                raise UnsubscribedError(f"the ingress of request {request.request_id} has gone")
            await tasks[0]
            return next(sent)
        finally:
            for task in tasks:
                task.cancel()

    async def events(self, wanted: Subscription) -> AsyncIterator[Parcel]:
        """The batches of all requests of an ingress; nothing if another replica was meant, which has gone."""
        if wanted.replica != self._engine.name:
            return
        async with aclosing(self._outboxes.parcels(wanted.ingress)) as parcels:  # type: ignore[type-var]
            async for parcel in parcels:
                yield parcel

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
        return f"its fixed run gives {proof.run[:12]}, and the configuration asks for {due[:12]}"
    return cast(str | None, ray.get(register().claim.remote(model.key, proof)))


def register() -> Any:
    """The fleet's `Register`, an actor; made where there is none."""
    options = {"name": REGISTER, "namespace": NAMESPACE, "get_if_exists": True}
    return ray.remote(Register).options(**options, num_cpus=0, lifetime="detached", max_restarts=-1).remote()


class _Front:
    """See `Front`: the register knows."""

    def __init__(self) -> None:
        self._register = register()

    async def accepting(self) -> None:
        await self._register.accept.remote(True)

    async def wanted(self) -> bool:
        return cast(bool, await self._register.accepting.remote())


class Ingress:
    """A deployment: the routes of `geminate serve`.

    Args:
        listens: whether it accepts connections itself, as `geminate fleet up` has it; else Ray's proxy does.
    """

    # Ray awaits it.
    async def __init__(  # type: ignore[misc]
        self, config: FleetConfig, listens: bool, **handles: DeploymentHandle[Any]
    ) -> None:
        stay_on_loopback()
        configure(config.settings.log_format)
        by_name = {model.deployment: handles[f"handle_{i}"] for i, model in enumerate(config.models)}
        links = {  # made in the event loop, in which they route
            model.deployment: RayLink(by_name[model.deployment], board_of(model.deployment, model.settings.max_running))
            for model in config.models
        }
        listen = partial(bind, config.settings, shared=True) if listens else None
        front = _Front() if listens else None
        make = partial(IngressApp, config, lambda model, board: links[model.deployment], listen=listen, front=front)
        self._app = await _made(make, config.settings.drain_seconds + AFTER_DRAIN_S)
        self._greeting = [
            asyncio.create_task(_greet(self._app, model.id, by_name[model.deployment])) for model in config.models
        ]

    def __serve_build_asgi_app__(self) -> IngressApp:
        """See Ray."""
        return self._app


async def _made(make: Callable[[], IngressApp], patience_s: float) -> IngressApp:
    """The application, once the ingress before this one has closed the audit log.

    Raises:
        GeminateError: see `IngressApp`.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            return await asyncio.to_thread(make)
        except AuditLogInUseError:
            if time.monotonic() > until:
                raise
        await asyncio.sleep(1.0)


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


def application(config: FleetConfig | None = None, *, here: bool = False) -> serve.Application:
    """The application.

    Args:
        config: default: that of `load_fleet`.
        here: the ingress runs on this machine and listens itself; else Ray's proxies do, where and how Ray is told.
    """
    config = config or load_fleet(listens=False)
    options: dict[str, Any] = {"num_cpus": 0}
    if here:
        options["resources"] = {f"node:{ray.util.get_node_ip_address()}": NODE_SHARE}
    models = {f"handle_{i}": _replicas(model, config) for i, model in enumerate(config.models)}
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        num_replicas=1,
        # An update: the next one accepts connections before this one stops to; but one alone writes an audit log.
        max_surge_percent=0 if config.settings.audit_log else 100,
        ray_actor_options=options,
        max_ongoing_requests=ONGOING,
        graceful_shutdown_timeout_s=config.settings.drain_seconds + AFTER_DRAIN_S,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=QUIET,
    )
    return ingress.bind(config, here, **models)


def _replicas(model: ModelConfig, config: FleetConfig) -> serve.Application:
    settings, options = model.settings, model.options
    most = options.max_replicas or options.replicas
    scaling: dict[str, Any] = {"num_replicas": options.replicas}
    if most > options.replicas:
        delays = (options.scale_up_seconds, options.scale_down_seconds)
        look_s = max(1.0, min(LOOK_BACK_S, *delays))
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=options.replicas,
                max_replicas=most,
                target_ongoing_requests=settings.max_running / 2 + 1,  # the stream of events is a request for Ray
                upscale_delay_s=delays[0],
                downscale_delay_s=delays[1],
                look_back_period_s=look_s,
                metrics_interval_s=look_s / 3,
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
