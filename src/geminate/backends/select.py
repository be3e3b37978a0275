"""Choose a backend: the native kernels where they are built, else the NumPy reference with a warning."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

from geminate.backends.base import Backend, MeasuredBackend
from geminate.errors import BackendError
from geminate.formats.matrix import Layout
from geminate.formats.table import WeightFormat


def layout(fmt: WeightFormat) -> Layout:
    """The layout of whichever backend `make_backend` makes here: so far all of them read the same one."""
    from geminate.backends.tiles import LAYOUTS

    return LAYOUTS[fmt]


def layout_named(name: str, fmt: WeightFormat) -> Layout | None:
    """The layout that a packed file names, whatever machine it was written for; None for one that is not known."""
    known = layout(fmt)
    return known if known.name == name else None


@dataclass(frozen=True, kw_only=True)
class BuiltKernels:
    """The native kernels of this installation.

    Attributes:
        file: of the module; None: not built. arithmetic: its number of the arithmetic.
        isas: instruction sets that this machine runs, best first. absent: why there are none, and what to do.
    """

    file: str | None = None
    arithmetic: int | None = None
    isas: tuple[str, ...] = ()
    absent: str = ""


def built_kernels() -> BuiltKernels:
    """What was built, whatever ``GEMINATE_ISA`` says."""
    from geminate.backends.cpu import program

    if not program.native_available():
        return BuiltKernels(absent=program.why_not_native())
    return BuiltKernels(
        file=program.native_file(), arithmetic=program.native_arithmetic(), isas=tuple(program.supported_isas())
    )


def report_bus_errors(head: str, tail: str = "") -> None:
    """`geminate.backends.cpu.program.report_bus_errors`; for programs, since a library leaves signals alone."""
    from geminate.backends.cpu import program

    program.report_bus_errors(head, tail)


def _check_threads(threads: int | None) -> None:
    if threads is not None and not 1 <= threads <= 256:
        raise BackendError(f"threads must be 1 to 256, not {threads}")


def native_backend(threads: int | None = None) -> MeasuredBackend:
    """The native backend, which benchmarks need.

    Raises:
        BackendError: kernels not built, an instruction set this machine lacks, or a bad thread count.
    """
    from geminate.backends.cpu.program import NativeBackend

    _check_threads(threads)
    return NativeBackend(threads)


def make_backend(threads: int | None = None) -> Backend:
    """The native backend, or the reference one.

    ``GEMINATE_ISA`` forces an instruction set of the native kernels; ``reference`` forces NumPy.

    Raises:
        BackendError: an instruction set that does not exist or that this machine lacks; bad thread count.
    """
    _check_threads(threads)
    forced = os.environ.get("GEMINATE_ISA", "")
    if forced != "reference":
        from geminate.backends.cpu.program import NativeBackend, native_available, why_not_native

        if native_available():
            return NativeBackend(threads=threads)
        if forced:
            raise BackendError(f"GEMINATE_ISA={forced} needs the native kernels, which {why_not_native()}")
        warnings.warn(
            f"running on the NumPy reference, which is slow: the native kernels {why_not_native()}", stacklevel=2
        )
    from geminate.backends.reference.program import ReferenceBackend

    return ReferenceBackend(threads=threads)
