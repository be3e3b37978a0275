"""Run the real command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

REMARKS = ("drafter: ", "this needs about ")


def geminate(
    *args: str,
    stdin: bytes | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 120,
    prelude: str = "",
):
    """Completed process with text output; ``prelude``: Python that it runs first."""
    done = subprocess.run(
        [sys.executable, "-c", f"{prelude}\nfrom geminate.cli.app import app; app()", *args],
        input=b"" if stdin is None else stdin,
        capture_output=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
    )
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    return done


def refused(
    *args: str, says: str, stdin: bytes | None = None, env: dict[str, str] | None = None, prelude: str = ""
) -> None:
    """The command ends with code 2 and one line that holds ``says``, behind those about a model that was loaded at
    most; nothing on stdout, no traceback."""
    done = geminate(*args, stdin=stdin, env=env, prelude=prelude)
    assert done.returncode == 2, (done.stdout, done.stderr)
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith(REMARKS)]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert says in lines[0], lines[0]
    assert "Traceback" not in done.stderr and done.stdout == ""
