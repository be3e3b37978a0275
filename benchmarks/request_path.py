"""How many of the package's files hand a request on: those on the call stacks between its entry and its tokens.

Usage: python benchmarks/request_path.py cli|http [--json FILE]

Stacks are taken where a prompt is rendered and encoded, where the engine takes it, at every forward pass and wherever
text leaves the detokenizer; a file counts once. Also printed: all files of which a function ran.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import FrameType
from typing import Any

PORT = "8971"
STATIONS = {
    ("text/template.py", "render"), ("text/tokenizer.py", "encode"), ("engine/engine.py", "add"),
    ("backends/cpu/program.py", "run"), ("text/detokenizer.py", "push"),
}  # fmt: skip


def name_of(frame: FrameType) -> str | None:
    """The file's path inside the package; None for other code and for imports."""
    _, found, name = frame.f_code.co_filename.rpartition("/geminate/")
    return name if found and frame.f_code.co_name != "<module>" else None


class Watch:
    """A profiler that notes files while ``on``."""

    def __init__(self) -> None:
        self.on = False
        self.path: set[str] = set()
        self.ran: set[str] = set()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if event != "call" or not self.on or (name := name_of(frame)) is None:
            return
        self.ran.add(name)
        if (name, frame.f_code.co_name) in STATIONS:
            at: FrameType | None = frame
            while at is not None:
                if (caller := name_of(at)) is not None:
                    self.path.add(caller)
                at = at.f_back


def command_line(watch: Watch) -> None:
    """``geminate generate`` with one prompt."""
    from geminate.cli.app import app

    sys.argv = ["geminate", "generate", "--raw", "Once upon a time", "-n", "16", "-t", "0"]
    watch.on = True
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        app(standalone_mode=False)
    watch.on = False


def server(watch: Watch) -> None:
    """``geminate serve`` and its second streamed chat request."""
    from geminate.cli.app import app

    body = {"model": "geminate-embedded", "max_tokens": 16, "temperature": 0, "stream": True}
    data = json.dumps(body | {"messages": [{"role": "user", "content": "Hello"}]}).encode()
    url = f"http://127.0.0.1:{PORT}"

    def client() -> None:
        try:
            for _ in range(300):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{url}/health/ready", timeout=1).close()
                    break
                time.sleep(0.1)
            for _ in range(2):
                request = urllib.request.Request(
                    f"{url}/v1/chat/completions", data, {"Content-Type": "application/json"}
                )
                urllib.request.urlopen(request, timeout=60).read()
                watch.on = not watch.on
        finally:
            watch.on = False
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=client).start()
    sys.argv = ["geminate", "serve", "--port", PORT]
    with contextlib.redirect_stderr(io.StringIO()):
        app(standalone_mode=False)


def main() -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=["cli", "http"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    watch = Watch()
    threading.setprofile(watch)
    sys.setprofile(watch)
    (command_line if args.way == "cli" else server)(watch)
    sys.setprofile(None)
    result = {"way": args.way, "path": sorted(watch.path), "files": len(watch.path), "ran": len(watch.ran)}
    if args.json is not None:
        args.json.write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0 if watch.path else 1


if __name__ == "__main__":
    sys.exit(main())
