"""A program keeps what its steps point to; scripts/sanitize runs this with freed memory poisoned."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import numpy as np

from geminate.backends.cpu.program import _native, supported_isas


def test_weights_outlive_their_names() -> None:
    tiles, rows = np.zeros(2 * 1024, np.uint8), np.zeros(2 * 1024, np.uint8)
    kept = [weakref.ref(tiles), weakref.ref(rows)]
    program = _native.Program(_native.Pool(1), supported_isas()[0], 4, [8, 8])
    program.embed(0, _native.Matrix("bf16", 20, 8, 1, tiles, None), 1.0)
    program.lookup(1, _native.RowTable("bf16", 128, 8, rows, None), 1.0, 0)
    del tiles, rows
    gc.collect()
    assert all(array() is not None for array in kept)
    del program
    gc.collect()
    assert all(array() is None for array in kept)


def test_a_pool_ends_though_its_threads_met_no_job() -> None:
    """Small jobs are over before a thread has started; the pool must still be able to stop it."""
    code = (
        "import numpy as np\n"
        "from geminate.backends.cpu.program import NativeBackend\n"
        "x = np.zeros((1, 262144), dtype=np.float32)\n"
        "for _ in range(150):\n"
        "    NativeBackend(4).sampler.logprobs(x, [0], 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
