"""The ingress: the routes of `geminate serve` in front of replicas instead of an engine, and their socket."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from geminate.fleet.board import Board, board_of
from geminate.fleet.client import FleetService, Loss
from geminate.fleet.config import FleetConfig, ModelConfig
from geminate.fleet.link import ReplicaLink
from geminate.kv.prefix_store import DEFAULT_BYTES
from geminate.llm import LLM
from geminate.server import start
from geminate.server.app import make_app
from geminate.server.http.auth import Keys, load_keys
from geminate.server.http.logs import log
from geminate.server.listen import Server, make_server
from geminate.server.metrics import Reading
from geminate.server.state import ServerState
from geminate.server.watchdog import watch

TICK_S = 0.1
HANDOVER_S = 30.0  # within which an ingress should have a replica of each model before it takes over
Connect = Callable[[ModelConfig, Board], ReplicaLink]


class FleetModel:
    """One model at the ingress: its tokenizer, template and grammars, and the client of its replicas.

    Weights are mapped, as they are in replicas, but never computed with.
    """

    def __init__(self, model: ModelConfig, config: FleetConfig, connect: Connect) -> None:
        settings = model.settings
        options = dataclasses.replace(
            settings.loading(), threads=1, prefault=False, prefix_store=None, prefix_store_bytes=DEFAULT_BYTES
        )
        self.id, self.settings = model.id, settings
        self.llm = LLM(**vars(options), on_message=lambda message: log("info", message))
        self.llm.grammars.isolate(settings.grammar_bytes)
        self.board = board_of(model.deployment, settings.max_running)
        engine = self.llm.new_engine(max_running=settings.max_running, memory=start.kv_budget(self.llm, settings))
        self.losses: Counter[str] = Counter()
        self.service = FleetService(
            engine,
            connect(model, self.board),
            self.board,
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            retries=config.fleet.retries,
            stall_s=config.fleet.stall_seconds,
            on_loss=self._lost,
        )

    def _lost(self, loss: Loss) -> None:
        self.losses["continued" if loss.again else "failed"] += 1
        log(
            "warning",
            "a stream lost its replica; another one goes on" if loss.again else "a stream has lost too many replicas",
            **dataclasses.asdict(loss),
        )

    def readings(self) -> Iterator[Reading]:
        """Figures of the fleet and of each replica, for the metrics."""
        yield Reading(name="fleet_replicas", help="Replicas that take requests.", value=self.board.count)
        for outcome in ("continued", "failed"):
            yield Reading(
                name="fleet_lost_streams",
                help="Streams that lost their replica: continued by another one, or failed.",
                value=self.losses[outcome],
                counter=True,
                labels=(("outcome", outcome),),
            )
        slowness = self.board.slowness()
        for name, stats in self.board.stats().items():
            replica = (("replica", name),)
            slow = "How many times as long as published its rounds take."
            yield Reading(name="fleet_replica_slowness", help=slow, value=slowness.get(name, 1.0), labels=replica)
            if stats is None:
                continue
            now = stats.snapshot
            usage = now.kv_bytes_used / now.kv_bytes_limit if now.kv_bytes_limit else 0.0
            for what, help, value in (
                ("running", "Sequences that a replica decodes.", now.running),
                ("waiting", "Requests that wait at a replica.", now.waiting),
                ("kv_cache_usage_perc", "Share of a replica's KV-cache budget in use.", usage),
                ("prefix_cache_hits", "Prompt tokens found in a replica's prefix cache.", now.prefix_hits),
                ("prefix_cache_queries", "Prompt tokens looked up in a replica's prefix cache.", now.prefix_queries),
            ):
                counter = what.startswith("prefix")
                yield Reading(name=f"fleet_replica_{what}", help=help, value=value, counter=counter, labels=replica)


class Front(Protocol):
    """Knows whether a fleet is to accept connections."""

    async def accepting(self) -> None:
        """An ingress does from now on."""
        ...

    async def wanted(self) -> bool:
        """Whether there is to be one; False: the fleet ends."""
        ...


class IngressApp:
    """The ASGI application of a fleet. A model is served from the moment on at which one of its replicas answers.

    Args:
        connect: makes the link to a model's replicas.
        listen: opens the socket on which it accepts connections itself; None: somebody else does.
        front: with ``listen``.

    Raises:
        GeminateError: a model that cannot be loaded, bad API keys, or an audit log that cannot be written.
    """

    def __init__(
        self,
        config: FleetConfig,
        connect: Connect,
        *,
        listen: Callable[[], socket.socket] | None = None,
        front: Front | None = None,
    ) -> None:
        self.settings = config.settings
        self.keys = Keys(load_keys(config.settings))
        self.state = ServerState(config.settings, program="geminate fleet")
        self._listen, self._front = listen, front
        self._all_ready = asyncio.Event()
        self.models = {model.id: FleetModel(model, config, connect) for model in config.models}
        self.app: ASGIApp = make_app(self.state, self.keys)
        if self.state.audit is not None:
            for model in self.models.values():
                self.state.audit.know(model.llm)
        gc.collect()
        gc.freeze()  # what is loaded stays: looking through it again would stop every stream

    def ready(self, model_id: str) -> None:
        """A replica of this model has answered; once for each model."""
        model = self.models[model_id]
        self.state.attach(model.llm, model.service, model.settings, model.readings)
        order = list(self.models)
        self.state.models.sort(key=lambda one: order.index(one.id))  # requests without a name get the first one
        log("info", "ready", model=model_id, replicas=model.board.count)
        if len(order) == len(self.state.models):
            self._all_ready.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or take part in the start and the end of the process that serves it."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self.app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """The process's life in the terms of ASGI: Ray sends the shutdown when this ingress is to end."""
        await receive()
        watching = asyncio.create_task(watch(self.state.metrics, self.state.drop_idle))
        server, serving = None, None
        if self._listen is not None and self._front is not None:
            if await self._front.wanted():  # by another one until now, which could answer at once
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._all_ready.wait(), HANDOVER_S)
            server = make_server(self, self.settings)
            serving = asyncio.create_task(server.serve(sockets=[self._listen()]))
            await self._front.accepting()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if server is not None and serving is not None:
            await self._drain(server)
            await serving
        watching.cancel()
        self.state.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _drain(self, server: Server) -> None:
        """Finish the open requests; a successor has accepted connections before this one was to end."""
        assert self._front is not None
        until = time.perf_counter() + self.settings.drain_seconds
        server.refuse()
        if not await self._front.wanted():
            self.state.drain()
        while not self.state.idle and time.perf_counter() < until:
            await asyncio.sleep(TICK_S)
        if not self.state.idle:
            log("warning", "drain_seconds are over; requests still running are aborted")
        server.should_exit = True
