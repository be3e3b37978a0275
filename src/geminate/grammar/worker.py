"""The grammar processes: one that holds the tokenizer and forks, and one for every compiled grammar.

A grammar in a process of its own can be stopped at any moment, has a memory limit, yields to everybody else, and can
only take itself down. `geminate.grammar.host` starts and addresses them. Nothing of the engine is imported here.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from geminate.grammar.matching import Answer, CompiledGrammar, Library, Matching, UnusableGrammarError

assert sys.platform != "win32"  # which cannot fork: `GrammarCompiler.isolate` does not come here
FORK = b"F"
COMPILE, FOLLOW, CLOSE = 0, 1, 2
STEP = struct.Struct("<BIIIIB")  # operation, completion, keep, first, number of tokens, whether to report forced ones
HEAD = struct.Struct("<I")
_PR_SET_PDEATHSIG = 1
_PAGE = os.sysconf("SC_PAGE_SIZE")


def encode(number: int, answer: Answer) -> bytes:
    """An answer for completion ``number`` as bytes; see `decode`."""
    head = {
        "number": number,
        "accepting": [accepting for accepting, _ in answer.places],
        "forced": answer.forced,
        "error": answer.error,
        "seconds": answer.seconds,
        "memory": answer.memory,
    }
    text = json.dumps(head).encode()
    return b"".join([HEAD.pack(len(text)), text, *(bits for _, bits in answer.places)])


def decode(raw: bytes) -> tuple[int, Answer]:
    """The completion's number and the answer, from what `encode` made."""
    (size,) = HEAD.unpack_from(raw)
    start = HEAD.size + size
    head = json.loads(raw[HEAD.size : start])
    accepting = head["accepting"]
    each = (len(raw) - start) // len(accepting) if accepting else 0
    places = [(a, raw[start + i * each : start + (i + 1) * each]) for i, a in enumerate(accepting)]
    forced = None if head["forced"] is None else tuple(head["forced"])
    return head["number"], Answer(
        places=places, forced=forced, error=head["error"], seconds=head["seconds"], memory=head["memory"]
    )


def main() -> None:
    """The forking process: its standard input is a socket, on which the settings come first, then commands."""
    control = socket.socket(fileno=0)
    try:
        settings = json.loads(exactly(control, HEAD.unpack(exactly(control, HEAD.size))[0]))
    except OSError:
        return  # the host is gone
    library = Library(
        settings["tokenizer"], vocab_size=settings["vocab_size"], eos_ids=settings["eos_ids"], limits=settings["limits"]
    )
    del settings["tokenizer"]
    gc.collect()
    gc.freeze()  # or a collection in a forked process would copy every page
    control.sendall(b"R")
    children: set[int] = set()
    try:
        while _obey(control, library, settings, children):
            pass
    except OSError:
        pass  # the host is gone
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _obey(control: socket.socket, library: Library, settings: Mapping[str, Any], children: set[int]) -> bool:
    """Carry out one command; False at the end of the connection."""
    message, fds, _, _ = socket.recv_fds(control, 1, 1)
    _reap(children)
    if message == FORK:
        pid = os.fork()
        if pid == 0:
            control.close()
            _child(Connection(fds[0]), library, settings)
        os.close(fds[0])
        children.add(pid)
        control.sendall(HEAD.pack(pid))
    return bool(message)


def exactly(control: socket.socket, size: int) -> bytes:
    """``size`` bytes of a connection.

    Raises:
        OSError: it ended before.
    """
    parts = bytearray()
    while len(parts) < size:
        part = control.recv(size - len(parts))
        if not part:
            raise OSError("the connection ended")
        parts += part
    return bytes(parts)


def _reap(children: set[int]) -> None:
    while children:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        children.discard(pid)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _child(conn: Connection, library: Library, settings: Mapping[str, Any]) -> None:
    """One grammar's process, from its compilation until the connection ends."""
    try:
        _die_with_parent()
        before = _data_bytes()
        if before:
            limit = before + settings["memory"] + settings["stack"]
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        _serve(conn, library, settings["nice"])
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)  # nothing of the forking process's is torn down here


def _data_bytes() -> int:
    """Bytes of private writable memory, mapped or not, as RLIMIT_DATA counts them; 0 where that is not known."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[5]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def _anonymous_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            fields = file.read().split()
        return (int(fields[1]) - int(fields[2])) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def _compile(library: Library, source: str, nice: int) -> tuple[CompiledGrammar | None, str | None]:
    """The compiled grammar, or why there is none; where threads have priorities, this one yields to everybody else."""
    made: list[CompiledGrammar] = []
    failed: list[str] = []

    def run() -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
        try:
            made.append(library.compile(source))
        except UnusableGrammarError as failure:
            failed.append(str(failure))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return (made[0], None) if made else (None, failed[0] if failed else "the grammar engine cannot handle it")


def _serve(conn: Connection, library: Library, nice: int) -> None:
    baseline = _anonymous_bytes()
    grammar: CompiledGrammar | None = None
    completions: dict[int, Matching] = {}

    def reply(number: int, answer: Answer) -> None:
        used = max(0, _anonymous_bytes() - baseline)
        conn.send_bytes(encode(number, Answer(**{**answer.__dict__, "memory": used})))

    while True:
        raw = conn.recv_bytes()
        if raw[0] == COMPILE:
            began = time.process_time()
            grammar, error = _compile(library, raw[1:].decode(), nice)
            reply(0, Answer(places=[], error=error, seconds=time.process_time() - began))
            continue
        operation, number, keep, first, count, forced = STEP.unpack_from(raw)
        if operation == CLOSE:
            completions.pop(number, None)
            continue
        assert grammar is not None
        found = completions.get(number)
        if found is None:
            found = completions[number] = Matching(grammar)
        tokens = struct.unpack_from(f"<{count}I", raw, STEP.size)
        reply(number, found.follow(keep, tokens, first, forced=bool(forced)))
