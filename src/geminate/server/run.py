"""Server lifecycle: the socket opens immediately, the model loads in a thread, SIGTERM drains."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from geminate.backends.select import report_bus_errors
from geminate.engine.service import EngineService
from geminate.errors import SHORTENED, BackendError, DrainingError, GeminateError
from geminate.llm import LLM
from geminate.server import start
from geminate.server.app import make_app
from geminate.server.http.auth import Keys, load_keys
from geminate.server.http.heap import share_one_heap
from geminate.server.http.logs import configure, line_around_time, log
from geminate.server.listen import AFTER_DRAIN_S, bind, make_server
from geminate.server.settings import Settings
from geminate.server.state import Model, ServerState
from geminate.server.watchdog import watch
from geminate.system.priority import give_way
from geminate.system.signals import ENDS, HANG_UP, on_signals

TICK_S = 0.05
LOG = 2  # stderr
CHECK_NICE = 10  # of the thread that reads all weights: answers come first
Check = Callable[[], None]
Load = Callable[[Check], LLM]


def serve(settings: Settings, load: Load) -> None:
    """Run the server until a signal stops it.

    Args:
        load: loads the model; called in a thread while the socket is already open. It calls its argument now and
            then, which raises when the server is to stop.

    Raises:
        GeminateError: invalid API keys, an address that cannot be bound, an audit log that cannot be written, or a
            model that cannot be loaded.
    """
    share_one_heap()
    configure(settings.log_format)
    report_bus_errors(*line_around_time("critical", SHORTENED, settings.log_format))
    keys = load_keys(settings)
    if not keys and settings.allow_unauthenticated:
        log("warning", "no API keys: anyone who can reach this address can use the server", host=settings.host)
    listener = bind(settings)
    with contextlib.closing(listener):
        _Run(settings, keys, load, listener).run()


class _Run:
    """One run of the server."""

    def __init__(self, settings: Settings, keys: list[str], load: Load, listener: socket.socket) -> None:
        self.settings, self.load, self.listener = settings, load, listener
        self.keys = Keys(keys)
        self.state = ServerState(settings)
        self.service: EngineService | None = None
        self.server = make_server(make_app(self.state, self.keys), settings)
        self.url = ""
        self._signals = 0
        self._terminal = os.isatty(LOG)
        self._reloading = asyncio.Lock()
        self._stopping = threading.Event()
        self._loading: threading.Thread | None = None

    def run(self) -> None:
        asyncio.run(self._main())
        if self.state.failure is not None:
            raise self.state.failure

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        calls: dict[signal.Signals, Callable[[], None]] = {n: functools.partial(self._signal, n) for n in ENDS}
        if HANG_UP is not None:
            calls[HANG_UP] = self._hang_up
        on_signals(loop, calls)
        host, port = self.listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        lines = [f"{self.url}, while the model is being loaded"]
        log("info", "listening", lines=lines, host=host, port=port, pid=os.getpid())
        self._loading = threading.Thread(target=self._load, args=(loop,), name="loading", daemon=True)
        self._loading.start()
        watching = asyncio.create_task(watch(self.state.metrics, self.state.drop_idle))
        try:
            await self.server.serve(sockets=[self.listener])
        finally:
            watching.cancel()
            self._stopping.set()
            if self.service is not None:
                await asyncio.to_thread(self.service.stop)
            await asyncio.to_thread(self._loading.join, AFTER_DRAIN_S)
            self.state.close()
            log("info", "stopped")
            code = 0 if self.state.failure is None else 1
            if self._loading.is_alive():
                # Native code must not run on while the interpreter is taken apart.
                _leave(code)
            _exit_in(AFTER_DRAIN_S, code)

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        """Runs in a thread; only the loaded model (or the error) reaches the event loop."""
        began = time.perf_counter()
        try:
            llm = self.load(self._check)
            service = make_service(llm, self.settings, self._check)
            if self.state.audit is not None:
                self.state.audit.know(llm)
            gc.collect()
            gc.freeze()  # what is loaded stays: looking through it again would stop every stream for 100 ms
        except Exception as error:
            if not self._stopping.is_set():
                self._load_failed(loop, error)
        else:
            self._post(loop, self._loaded, llm, service, time.perf_counter() - began)

    def _load_failed(self, loop: asyncio.AbstractEventLoop, error: Exception) -> None:
        if isinstance(error, GeminateError):
            self._post(loop, self._failed, error)
        else:
            log("error", "unexpected exception while loading", exc_info=error)
            self._post(loop, self._failed, BackendError(f"loading the model failed: {type(error).__name__}: {error}"))

    def _check(self) -> None:
        if self._stopping.is_set():
            raise DrainingError("the server was stopped while it loaded the model")

    @staticmethod
    def _post(loop: asyncio.AbstractEventLoop, what: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: a signal arrived first
            loop.call_soon_threadsafe(what, *args)

    def _loaded(self, llm: LLM, service: EngineService, seconds: float) -> None:
        if self.state.status == "draining":
            return
        try:
            loop = asyncio.get_running_loop()
            service.on_failure = lambda: self._post(loop, self._engine_failed)
            service.start()
            self.service = service
            threading.Thread(target=self._check_weights, args=(loop, llm), name="checking", daemon=True).start()
            self.state.attach(llm, service)
            threading.Thread(target=self._start_grammars, args=(llm,), name="grammars", daemon=True).start()
        except GeminateError as error:
            self._failed(error)
            return
        model = self.state.check_ready()
        self._say_ready(llm, service, model, seconds)

    def _say_ready(self, llm: LLM, service: EngineService, model: Model, seconds: float) -> None:
        memory = service.engine.memory
        assert memory is not None  # `make_service` bounds it
        for remark in start.clamped(llm, self.settings, memory):
            log("warning", remark)
        known = start.facts(llm, self.settings, memory, url=self.url, keys=self.keys.count)
        lines = [
            f"{model.id}, loaded in {seconds:.1f} s, context {model.context:,} tokens",
            *start.sentences(known, llm, page=self.settings.page),
        ]
        log("info", "ready", lines=lines, model=model.id, seconds=round(seconds, 2), context=model.context, **known)

    def _failed(self, error: GeminateError) -> None:
        self.state.status, self.state.failure = "failed", error
        log("error", "the model could not be loaded", error=str(error))
        self.server.should_exit = True

    def _check_weights(self, loop: asyncio.AbstractEventLoop, llm: LLM) -> None:
        """Runs in a thread, after the start: reading everything before would delay the first answer."""
        give_way(CHECK_NICE)
        try:
            llm.check_weights()
            log("info", "the packed weights are intact")
        except GeminateError as error:
            log("critical", str(error))
            self._post(loop, self._weights_damaged, error)

    def _start_grammars(self, llm: LLM) -> None:
        """Runs in a thread: with a large vocabulary it takes a while, for which the first grammar need not wait."""
        try:
            llm.grammars.warm_up()
        except GeminateError as error:
            log("warning", str(error))

    def _weights_damaged(self, error: GeminateError) -> None:
        self.state.status, self.state.failure = "failed", error
        self.server.should_exit = True

    def _engine_failed(self) -> None:
        """Let the error events reach their clients, then exit with an error, so that a supervisor restarts it."""
        self.state.failure = BackendError("the engine failed; the log has the cause")
        self.server.should_exit = True

    def _signal(self, number: int) -> None:
        self._signals += 1
        name = signal.Signals(number).name
        if self._signals > 1:
            log("warning", "second signal: stopping immediately", signal=name)
            self.server.should_exit = self.server.force_exit = True
            _exit_in(2.0)
            return
        log("info", "draining", signal=name, seconds=self.settings.drain_seconds)
        if self.service is None:
            self._stopping.set()
        self.state.drain()
        self._drained = asyncio.ensure_future(self._drain())

    def _hang_up(self) -> None:
        """SIGHUP: read the API keys again, unless it says that the terminal of this server is gone."""
        if HANG_UP is not None and self._terminal and not os.isatty(LOG):
            self._signal(HANG_UP)
        else:
            self._reload = asyncio.ensure_future(self._reload_keys())

    async def _reload_keys(self) -> None:
        if self.settings.api_key_file is None:
            log("info", "nothing to reload: there is no API key file")
            return
        async with self._reloading:
            try:
                keys = await asyncio.to_thread(load_keys, self.settings)
            except GeminateError as error:
                log("error", "the API keys stay as they were", error=str(error))
                return
            self.keys.replace(keys)
        log("info", "API keys reloaded", keys=len(keys))

    async def _drain(self) -> None:
        """Wait for running requests while new ones are refused, then close."""
        until = time.perf_counter() + self.settings.drain_seconds
        while not self.state.idle and time.perf_counter() < until:
            await asyncio.sleep(TICK_S)
        if not self.state.idle:
            log("warning", "drain_seconds are over; requests still running are aborted")
            if self.service is not None:
                await asyncio.to_thread(self.service.stop)  # their clients get an error
        self.server.should_exit = True


def make_service(llm: LLM, settings: Settings, check: Check | None = None) -> EngineService:
    """Build the engine service for these settings, without starting it.

    Args:
        check: called while costs are measured; what it raises ends that.
    """
    memory = start.kv_budget(llm, settings)
    llm.measure_costs(check)
    if not llm.grammars.isolate(settings.grammar_bytes):
        log(
            "warning",
            "grammars are compiled in this process, without limits of time and memory: this system cannot fork",
        )
    engine = llm.new_engine(
        prefill_share=settings.prefill_share,
        max_gap_s=settings.max_inter_token_ms / 1000,
        max_running=settings.max_running,
        memory=memory,
        costs=llm.engine.timing.costs,
    )
    return EngineService(engine, max_waiting=settings.max_waiting)


def _exit_in(seconds: float, code: int = 1) -> None:
    """End the process even if a thread, such as one that compiles a grammar, never returns."""

    def leave() -> None:
        time.sleep(seconds)
        _leave(code)

    threading.Thread(target=leave, name="leaving", daemon=True).start()


def _leave(code: int) -> NoReturn:
    log("warning", "a thread did not end; exiting without it")
    os._exit(code)
