"""Two replicas on Ray beside two bare servers: tokens a second, and what the way through Ray adds to the first token.

Usage: python benchmarks/fleet/throughput.py [--model DIR] [--repeats 3] [--clients 2,4,8,16]
           --json benchmarks/fleet/throughput.json

Two replicas of one thread each, behind one address, and two `geminate serve` of one thread each, each with half of the
clients, take turns; the clients run on the same cores. The default model has the layers of Gemma 3 270M with random
weights. Sampled with a seed, end tokens ignored, speculation off: every answer has the same length. Marks: 0.85 of the
bare throughput, and 15 ms more to the first token of a client alone, at the median. The processor time that each kind
of process has used meanwhile is reported, in cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from rich.progress import Progress

from geminate import machine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "serve"))
from sse_client import Answer, load
from started import Started, random_model

TOKENS, CLIENTS, EACH = 64, (2, 4, 8, 16), 6
ALONE = 40  # requests of one client alone
RATIO, ADDED_MS = 0.85, 15.0


def body(number: int, name: str) -> dict[str, Any]:
    """A request; its first word is its number, so that no prompt is in a cache."""
    prompt = f"{number} times a little boy went to the river and saw "
    return {"model": name, "prompt": prompt, "max_tokens": TOKENS, "temperature": 1, "seed": number,
            "speculation": "off", "ignore_eos": True, "stream_options": {"include_usage": True}}  # fmt: skip


KINDS = {"ServeReplica:geminate:ingress": "ingress", "ServeReplica:geminate:model": "replicas", "ProxyActor": "proxy",
         "ServeController": "controller", "raylet": "ray", "gcs_server": "ray", "ray::": "ray",
         "/ray/": "ray"}  # fmt: skip


def spent(server: Started | None) -> Counter[str]:
    """Processor seconds so far of a server's processes by kind; None: of the clients, which are this process."""
    mine = psutil.Process() if server is None else psutil.Process(server.process.pid)
    found: Counter[str] = Counter()
    for process in [mine] if server is None else [mine, *mine.children(recursive=True)]:
        try:
            times, line = process.cpu_times(), " ".join(process.cmdline())
        except psutil.Error:  # has ended meanwhile
            continue
        kind = next((kind for part, kind in KINDS.items() if part in line), "server")
        found["clients" if server is None else kind] += times.user + times.system
    return found


async def together(ports: list[int], bodies: list[dict[str, Any]], clients: int) -> tuple[list[Answer], float]:
    """All requests, shared out over the ports; answers and seconds."""
    share = len(ports)
    parts = [load(port, bodies[i::share], clients // share) for i, port in enumerate(ports)]
    began = time.perf_counter()
    answers = [answer for part in await asyncio.gather(*parts) for answer in part[0]]
    return answers, time.perf_counter() - began


def rate(servers: list[Started], bodies: list[dict[str, Any]], clients: int) -> tuple[float, dict[str, float]]:
    """Tokens a second, and cores that were busy by kind of process."""
    before = sum(map(spent, [None, *servers]), Counter())
    answers, seconds = asyncio.run(together([server.port for server in servers], bodies, clients))
    after = sum(map(spent, [None, *servers]), Counter())
    cores = {kind: (after[kind] - before[kind]) / seconds for kind in after}
    return sum(answer.tokens for answer in answers) / seconds, cores


def first_ms(port: int, bodies: list[dict[str, Any]]) -> float:
    """Median milliseconds to the first token of one client."""
    answers, _ = asyncio.run(load(port, bodies, 1))
    return 1000 * statistics.median(answer.first for answer in answers)


def main() -> int:
    """Measure; exit code 1 where a mark is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="default: made below build/")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clients", default=",".join(map(str, CLIENTS)), help="clients at a time, even numbers")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    model = args.model or random_model(Path("build") / "fleet-model")
    words = (str(model), "--threads", "1")
    count = 0
    wanted = [int(word) for word in args.clients.split(",")]
    found: dict[str, list[dict[str, Any]]] = {str(clients): [] for clients in wanted}
    firsts: list[dict[str, float]] = []
    with (
        Started("serve", *words, "--model-id", "m") as a,
        Started("serve", *words, "--model-id", "m") as b,
        Started("fleet", "up", *words, "--replicas", "2") as fleet,
        Progress(transient=True) as progress,
    ):
        both = [("bare", [a, b], "m"), ("fleet", [fleet], model_name(fleet))]
        bar = progress.add_task("load", total=args.repeats * (len(wanted) + 1))
        for repeat in range(args.repeats):
            ways = both if repeat % 2 == 0 else both[::-1]
            for clients in wanted:
                made: dict[str, Any] = {}
                for way, servers, model_id in ways:
                    bodies = [body(count + i, model_id) for i in range(clients * EACH)]
                    count += len(bodies)
                    made[way], made[f"{way}_cores"] = rate(servers, bodies, clients)
                found[str(clients)].append(made)
                progress.advance(bar)
            alone = {}
            for way, servers, model_id in ways:
                bodies = [body(count + i, model_id) for i in range(ALONE)]
                count += len(bodies)
                alone[way] = first_ms(servers[0].port, bodies)
            firsts.append(alone)
            progress.advance(bar)
    result = report(found, firsts, model)
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0 if result["ok"] else 1


def model_name(server: Started) -> str:
    """The id of what it serves."""
    with urllib.request.urlopen(f"{server.url}/v1/models") as answer:
        return str(json.load(answer)["data"][0]["id"])


def middle(rows: list[dict[str, float]]) -> dict[str, float]:
    """The median of each kind."""
    return {kind: round(statistics.median(row.get(kind, 0.0) for row in rows), 2) for kind in sorted(rows[0])}


def report(found: dict[str, list[dict[str, Any]]], firsts: list[dict[str, float]], model: Path) -> dict[str, Any]:
    """Medians; ratios are taken within a repeat."""
    clients = {
        key: {
            "bare_tokens_s": round(statistics.median(one["bare"] for one in rows), 1),
            "fleet_tokens_s": round(statistics.median(one["fleet"] for one in rows), 1),
            "ratio": round(statistics.median(one["fleet"] / one["bare"] for one in rows), 3),
            "bare_cores": middle([one["bare_cores"] for one in rows]),
            "fleet_cores": middle([one["fleet_cores"] for one in rows]),
        }
        for key, rows in found.items()
    }
    added = statistics.median(one["fleet"] - one["bare"] for one in firsts)
    best = max(one["ratio"] for one in clients.values())
    return {
        "machine": machine.describe(), "model": model.name, "clients": clients,
        "first_token_ms": {way: round(statistics.median(one[way] for one in firsts), 2) for way in ("bare", "fleet")},
        "added_first_token_ms": round(added, 2), "best_ratio": best,
        "marks": {"ratio": RATIO, "added_first_token_ms": ADDED_MS},
        "ok": all(one["ratio"] >= RATIO for one in clients.values()) and added < ADDED_MS,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
