"""Our passes beside llama.cpp's and transformers' on the same shape, in turn in one run.

Usage: python benchmarks/peers/peers.py --peers DIR --gguf E2B.gguf [--assistant DRAFTER.gguf] [--rounds 9]
           [--no-torch] [--context 128] [--weights int4] [--kv f16|int8] [--json FILE]

DIR is the environment that setup.sh makes; write_gguf.py writes the files. Run it with the Python that has geminate.
Every round gives each engine its turn at every row count (three passes in a row, the first dropped, the better of
the others counted), so ratios come from the same minutes. Ours is int4, llama.cpp Q4_0 (head too), transformers bf16;
with --weights q4_k_m ours is in that mix, beside a file of write_gguf.py --format q4_k_m.
With a --context other than 128, steps stand behind so many positions, the only prompt is that context, read once, and
transformers is left out. --kv is ours; llama.cpp keeps float16.
With --assistant, tokens per second end to end as well: ours with auto against its own plain decoding, and
llama-server with MTP, both at a synthetic acceptance of 0.8 for every draft token whose predecessors were accepted.
Prints the machine and the ceiling, medians, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol, get_args

from geminate import __version__, machine
from geminate.kv.store import KVFormat
from geminate.tools.bench import decode
from geminate.tools.bench.step import StepBench, Work
from geminate.weights.presets import Preset

HERE = Path(__file__).parent
ROWS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
SHORT = 128
PREFILLS = (128, 512)
ACCEPTANCE = 0.8
DRAFTS = (1, 2, 3, 4)


class Contender(Protocol):
    """An engine that times itself, in milliseconds."""

    def step(self, rows: int, repeats: int) -> list[float]:
        """Passes over M rows behind 128 positions, logits for all rows."""
        ...

    def prefill(self, tokens: int) -> float:
        """A prompt from nothing."""
        ...


class Ours:
    """Geminate in this process; its threads sleep while others have their turn."""

    def __init__(self, threads: int, context: int, weights: Preset, kv: KVFormat) -> None:
        self.bench = StepBench("gemma-4-E2B", weights, threads=threads, context=context, kv=kv)
        self.ready = {"engine": "geminate", "version": __version__, "weights": weights, "kv": kv}

    def step(self, rows: int, repeats: int) -> list[float]:
        """See `Contender`."""
        return [self.bench.step(rows) * 1e3 for _ in range(repeats)]

    def prefill(self, tokens: int) -> float:
        """See `Contender`."""
        return self.bench.prefill(tokens) * 1e3


class Worker:
    """A peer in a process of its own, speaking line_protocol.py."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self._line()
        self.ready: dict[str, Any] = json.loads(line)

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args!r} ended before it answered; its message stands above")
        return line

    def _ask(self, request: str) -> list[float]:
        assert self.process.stdin is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        answer = self._line()
        if answer.startswith("error"):
            raise SystemExit(f"{request}: {answer.strip()}")
        return [float(word) for word in answer.split()]

    def step(self, rows: int, repeats: int) -> list[float]:
        """See `Contender`."""
        return self._ask(f"step {rows} {repeats}")

    def prefill(self, tokens: int) -> float:
        """See `Contender`."""
        return self._ask(f"prefill {tokens}")[0]

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def measure(
    contenders: dict[str, Contender], ours: Ours, rounds: int, sizes: tuple[int, ...], every: int
) -> dict[str, Any]:
    """Interleaved timings: {engine: {step_ms, prefill_ms, ...}}, prompts of ``sizes`` once in ``every`` rounds."""
    steps: dict[str, dict[int, list[float]]] = {name: {m: [] for m in ROWS} for name in contenders}
    prefills: dict[str, dict[int, list[float]]] = {name: {n: [] for n in sizes} for name in contenders}
    bandwidth, peak = [], []
    for index in range(rounds):
        bandwidth.append(ours.bench.ceilings.bandwidth())
        peak.append(ours.bench.ceilings.int8_peak())
        for m in ROWS:
            for name, contender in contenders.items():
                time.sleep(0.02)  # the last one's threads go to sleep
                steps[name][m].append(min(contender.step(m, 3)[1:]))
        if index % every == 0:
            for n in sizes:
                for name, contender in contenders.items():
                    time.sleep(0.02)
                    prefills[name][n].append(contender.prefill(n))
        print(f"round {index + 1} of {rounds}", file=sys.stderr)
    median = statistics.median
    own = steps["geminate"]
    engines = {
        name: {
            "step_ms": {str(m): round(median(t), 2) for m, t in by_rows.items()},
            "best_ms": {str(m): round(min(t), 2) for m, t in by_rows.items()},
            "ratio": {str(m): round(median(a / b for a, b in zip(t, by_rows[1], strict=True)), 3)
                      for m, t in by_rows.items()},
            "ours_over_theirs": {str(m): round(median(a / b for a, b in zip(own[m], t, strict=True)), 3)
                                 for m, t in by_rows.items()},
            "prefill_ms": {str(n): round(median(t), 1) for n, t in prefills[name].items()},
            "prefill_ours_over_theirs": {
                str(n): round(median(a / b for a, b in zip(prefills["geminate"][n], t, strict=True)), 3)
                for n, t in prefills[name].items()
            },
        }
        for name, by_rows in steps.items()
    }  # fmt: skip
    work = Work(ours.bench.config, ours.bench.weights)
    return {
        "bandwidth_gbps": round(median(bandwidth) / 1e9, 1),
        "int8_gmacs": round(median(peak) / 1e9, 1),
        "weight_bytes": work.bytes(0, 1),
        "macs_per_row": work.macs(),
        "engines": engines,
    }


def end_to_end(ours: Ours, peers: Path, gguf: Path, assistant: Path, threads: int) -> dict[str, Any]:
    """Tokens per second at a synthetic acceptance: ours, then llama-server's on its own."""
    survival = [ACCEPTANCE**i for i in DRAFTS]
    engine = decode.synthetic(decode.engine_of_shape(ours.bench), survival)
    prompts = decode.random_prompts(ours.bench.config.vocab_size, 3)
    result = decode.run(engine, prompts, [0, *DRAFTS, "auto"], max_tokens=96, repeats=3)
    done = subprocess.run(
        [str(peers / "bin" / "python"), str(HERE / "llama_server_mtp.py"), str(gguf), str(assistant),
         "--accept", str(ACCEPTANCE), "--drafts", ",".join(map(str, DRAFTS)), "--repeats", "3",
         "--threads", str(threads)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return {"acceptance": ACCEPTANCE, "geminate": result, "llama_server": json.loads(done.stdout.splitlines()[-1])}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--assistant", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--context", type=int, default=SHORT)
    parser.add_argument("--weights", choices=("int4", "int8", "q4_k_m"), default="int4")
    parser.add_argument("--kv", choices=get_args(KVFormat), default="f16")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    python = str(args.peers / "bin" / "python")
    threads = ["--threads", str(args.threads)]
    far = ["--context", str(args.context)]
    workers = {"llama.cpp": Worker([python, str(HERE / "llama_worker.py"), str(args.gguf), *threads, *far])}
    short = args.context == SHORT
    if short and not args.no_torch:
        workers["transformers"] = Worker([python, str(HERE / "torch_worker.py"), *threads])
    ours = Ours(args.threads, args.context, args.weights, args.kv)
    contenders: dict[str, Contender] = {"geminate": ours, **workers}
    try:
        measured = measure(
            contenders,
            ours,
            args.rounds,
            PREFILLS if short else (args.context,),
            3 if short else args.rounds,
        )
    finally:
        for worker in workers.values():
            worker.close()
    result = {
        "benchmark": "peers", "machine": machine.describe(), "threads": args.threads, "rounds": args.rounds,
        "context": args.context,
        "versions": {name: c.ready for name, c in {"geminate": ours, **workers}.items()}, **measured,
    }  # fmt: skip
    if args.assistant is not None:
        result["end_to_end"] = end_to_end(ours, args.peers, args.gguf, args.assistant, args.threads)
    by_bytes = result["weight_bytes"] / result["bandwidth_gbps"] / 1e6
    by_macs = result["macs_per_row"] / result["int8_gmacs"] / 1e6
    print(f"machine  {result['machine']}, {args.threads} threads")
    print(f"ceiling  {by_bytes:.1f} ms a pass ({args.weights} weights once), {by_macs:.1f} ms a row (int8 products)")
    for name, e in result["engines"].items():
        print(f"{name:13}", "  ".join(f"T({m}) {ms}" for m, ms in e["step_ms"].items()), f" prefill {e['prefill_ms']}")
    line = json.dumps(result)
    if args.json is not None:
        args.json.write_text(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
