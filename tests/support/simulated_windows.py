"""Makes an interpreter on Linux look like one on Windows to Geminate: what POSIX alone has is gone, the Windows calls
that Geminate makes are there. Third parties, which decide by platform when they are imported, are imported before.

``PRELUDE`` is Python for the start of a process; `geminate.system` and its users then take their Windows branches.
"""

PRELUDE = '''
import asyncio, ctypes, fcntl, importlib, logging, os, signal, socket, subprocess, sys, tempfile, threading, types
from ctypes import wintypes
for name in ("numpy", "tokenizers", "jinja2", "typer", "rich.console", "rich.live", "rich.markdown", "platformdirs",
             "huggingface_hub", "gguf", "llguidance", "prompt_toolkit", "multiprocessing.connection", "uvicorn",
             "uvicorn.protocols.http.h11_impl", "fastapi", "fastapi.testclient", "prometheus_client"):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
flock = fcntl.flock

class Kernel32:
    """Answers as Windows would; what it does not know fails as an unknown function."""
    error = 0
    def LockFileEx(self, handle, flags, reserved, low, high, overlapped):
        assert (flags, low, high) == (3, 1, 0) and overlapped._obj.offset_high == 0x7FFFFFFF
        try:
            flock(handle.value, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            Kernel32.error = 33
            return 0
        return 1
    def GlobalMemoryStatusEx(self, status):
        assert status._obj.length == 64
        status._obj.total, status._obj.available = 16 << 30, 8 << 30
        return 1
    def GetLogicalProcessorInformationEx(self, relationship, room, size):
        import struct
        record = struct.pack("<IIBB20xHQH6x", 0, 48, 1, 0, 1, 3, 0)
        size._obj.value, space = 2 * len(record), size._obj.value
        if room is None or space < 2 * len(record):
            return 0
        room.raw = 2 * record
        return 1
    def __init__(self):
        self.GetCurrentThread = types.SimpleNamespace()
        class Call:
            restype = None
            def __call__(self):
                return 0xFFFFFFFE
        self.GetCurrentThread = Call()
        class Handle(Call):
            def __call__(self, number):
                return 7
        self.GetStdHandle = Handle()
    def SetThreadPriority(self, thread, priority):
        assert thread.value == 0xFFFFFFFE and priority == -2
        return 1
    def IsProcessorFeaturePresent(self, feature):
        assert feature == 38
        return 1
    def GetConsoleMode(self, console, mode):
        return 0  # a pipe

ctypes.WinDLL = lambda name, use_last_error=False: Kernel32()
ctypes.get_last_error = lambda: Kernel32.error
ctypes.WinError = lambda code: OSError(code, "simulated")
msvcrt = types.ModuleType("msvcrt")
msvcrt.get_osfhandle = lambda fd: fd
sys.modules["msvcrt"] = msvcrt
os.O_BINARY = os.O_NOINHERIT = 0
signal.SIGBREAK = signal.SIGUSR1
for gone in ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp"):
    sys.modules[gone] = None
for module, names in (
    (os, "fork getuid geteuid pread preadv pwrite sched_getaffinity sched_setaffinity setpriority sysconf "
         "memfd_create pidfd_open register_at_fork getpgrp tcgetpgrp O_CLOEXEC O_NONBLOCK O_NOCTTY O_NOFOLLOW"),
    (signal, "SIGHUP SIGKILL SIGTSTP SIGUSR2 pidfd_send_signal"),
    (socket, "send_fds recv_fds"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
def refuse(self, *args, **kwargs):
    raise NotImplementedError
asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler = refuse
sys.platform = "win32"
'''
