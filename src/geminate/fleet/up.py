"""Starts a fleet and stops it: a Ray of its own on this machine, or a cluster that is there."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator

# Read when Ray is imported, and by the processes that it starts.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # each replica says that it is ready
os.environ.setdefault("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "0")  # fewer threads between a token and its client
os.environ.setdefault("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "0")
# Ray runs its workers at niceness 15, so that its own servers come first: anything else on the machine, a client too,
# would then take the processor from replicas and ingress, which `geminate serve` does not allow either.
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
import ray._private.ray_constants as ray_constants
from ray import serve
from ray.exceptions import RayError
from ray.serve.schema import LoggingConfig

from geminate.cores import pick_threads
from geminate.errors import BackendError, GeminateError
from geminate.fleet.config import FleetConfig
from geminate.fleet.deployments import NAMESPACE, application, register
from geminate.fleet.signals import Interrupted, Signals
from geminate.server.http.logs import log

for noisy in ("ray.serve", "ray._private.authentication.authentication_token_setup"):
    logging.getLogger(noisy).setLevel(logging.ERROR)  # what it says at every start and end is nothing for a terminal
FIXED = ("host", "port")
REGISTER_S = 10.0  # within which the register should answer
APP = "geminate"
DASHBOARD = ("127.0.0.1", 8265)


def run(config: FleetConfig, reload: Callable[[], FleetConfig]) -> None:
    """Start the fleet and serve until a signal comes; SIGHUP updates it.

    Args:
        reload: reads the configuration again.

    Raises:
        BackendError: the address is taken, or Ray or the fleet cannot be started.
    """
    _check_free(config.settings.host, config.settings.port)
    signals = Signals()
    with contextlib.suppress(Interrupted), signals.taken(), _ray(config, signals), _serve(config, signals):
        settings = config.settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        models = [{"model": model.id, "replicas": model.options.replicas} for model in config.models]
        url = f"http://{host}:{settings.port}"
        lines = [
            f"{url}/v1 the base URL for clients",
            *(f"{m['model']}: {m['replicas']} replica{'s' * (m['replicas'] != 1)}" for m in models),
        ]
        log("info", "fleet ready", lines=lines, url=url, models=models)
        while not signals.wait():
            config = _updated(config, reload)
        log("info", "stopping", seconds=settings.drain_seconds)
    log("info", "stopped")


def _updated(config: FleetConfig, reload: Callable[[], FleetConfig]) -> FleetConfig:
    """Replace replicas, and the ingress, whose settings have changed, one after the other; the configuration now."""
    try:
        fresh = reload()
        for name in FIXED:
            if getattr(fresh.settings, name, None) != getattr(config.settings, name, None):
                raise BackendError(f"{name} needs a new start")
        if fresh.fleet.address != config.fleet.address or fresh.threads > _most_threads(config):
            raise BackendError("another cluster, or more threads, needs a new start")
        _deploy(fresh)
    except GeminateError as error:
        log("error", "the fleet stays as it was", error=str(error))
        with contextlib.suppress(GeminateError):
            _deploy(config)
        return config
    log("info", "fleet updated", models=[{"model": m.id, "replicas": m.options.replicas} for m in fresh.models])
    return fresh


@contextlib.contextmanager
def _ray(config: FleetConfig, signals: Signals) -> Iterator[None]:
    """Connected to Ray; one that was started here ends with the block."""
    fleet = config.fleet
    try:
        try:
            if fleet.address is not None:
                ray.init(address=fleet.address, namespace=NAMESPACE, log_to_driver=True, logging_level="warning")
            else:
                _start(config)
        except Exception as error:
            cause = str(error).strip().splitlines() or [type(error).__name__]
            raise BackendError(f"Ray does not start: {cause[0]}") from error
        signals.take()  # Ray has set handlers of its own
        yield
    finally:
        ray.shutdown()


def _start(config: FleetConfig) -> None:
    cores, threads = pick_threads().count, config.threads
    if threads > cores:
        log("warning", f"{threads} threads of all replicas on {cores} cores: they share them", threads=threads)
    # Without "clusters" Ray's servers listen on 127.0.0.1 only; its name speaks of systems where that is the default.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    ray.init(
        address="local",
        namespace=NAMESPACE,
        num_cpus=max(cores, _most_threads(config)),
        include_dashboard=config.fleet.dashboard,
        dashboard_host=DASHBOARD[0],
        dashboard_port=DASHBOARD[1],
        object_store_memory=config.fleet.object_store_bytes,
        log_to_driver=True,
        logging_level="warning",
    )


def _most_threads(config: FleetConfig) -> int:
    return sum(
        (model.settings.threads or 1) * (model.options.max_replicas or model.options.replicas)
        for model in config.models
    )


@contextlib.contextmanager
def _serve(config: FleetConfig, signals: Signals) -> Iterator[None]:
    """The application runs; its replicas finish what they have when the block ends.

    Raises:
        BackendError: no replica can be started.
    """
    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    # The ingress listens itself: a token passes one process less, and connections have the limits of one server.
    serve.start(proxy_location="Disabled", logging_config=quiet)
    try:
        _deploy(config)
        with signals.awaited():
            yield
    finally:
        with contextlib.suppress(RayError):  # the register's node has gone, or the cluster
            ray.get(register().accept.remote(False), timeout=REGISTER_S)
        serve.delete(APP)  # what runs is finished; a shutdown alone cuts the connections
        if config.fleet.address is not None:
            with contextlib.suppress(RayError, ValueError):
                ray.kill(register())  # the cluster goes on; one of this command's own ends as a whole


def _deploy(config: FleetConfig) -> None:
    """Bring the application into the state of a configuration, replica by replica.

    Raises:
        BackendError: no replica can be started.
    """
    try:
        serve.run(application(config, here=True), name=APP, route_prefix="/")
    except RuntimeError as error:
        raise BackendError(_why(error)) from error


def _check_free(host: str, port: int) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise BackendError(f"cannot listen on {host} port {port}: {error.strerror}") from error


def _why(error: RuntimeError) -> str:
    """Why an application was not deployed, in a line: what the constructor that failed has raised."""
    status = serve.status().applications.get(APP)
    messages = [] if status is None else [d.message for d in status.deployments.values()]
    lines = [line.strip() for text in [*messages, str(error)] for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if line.startswith("geminate.errors.")]
    cause = raised[-1].partition(": ")[2] if raised else next(iter(lines), type(error).__name__)
    return f"the fleet did not start: {cause}"
