"""The systems that wheels are made for, and the Python versions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Target:
    """A system and a processor.

    Attributes:
        name: for the command line. zig: the compiler's name of it; system and processor: CMake's.
        platform: the wheel's platform tag. soabi: the part of a module's file name between CPython's version and the
            extension, empty for Windows.
        libraries: the only shared libraries that a module may need, in lower case.
    """

    name: str
    zig: str
    system: str
    processor: str
    platform: str
    soabi: str
    libraries: frozenset[str]

    def module_name(self, abi3: bool) -> str:
        """File name of the native module."""
        if self.system == "Windows":
            return "_native.pyd" if abi3 else "_native.cp311-win_amd64.pyd"
        return "_native.abi3.so" if abi3 else f"_native.cpython-311-{self.soabi}.so"


def _linux(processor: str, loader: str) -> Target:
    return Target(
        name=f"linux-{processor}",
        zig=f"{processor}-linux-gnu.2.28",
        system="Linux",
        processor=processor,
        platform=f"manylinux_2_28_{processor}",
        soabi=f"{processor}-linux-gnu",
        libraries=frozenset({"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", loader}),
    )


def _macos(processor: str, zig: str) -> Target:
    return Target(
        name=f"macos-{processor}",
        zig=f"{zig}-macos.11.0",
        system="Darwin",
        processor=processor,
        platform=f"macosx_11_0_{processor}",
        soabi="darwin",
        libraries=frozenset({"/usr/lib/libsystem.b.dylib"}),
    )


TARGETS = (
    _linux("x86_64", "ld-linux-x86-64.so.2"),
    _linux("aarch64", "ld-linux-aarch64.so.1"),
    _macos("arm64", "aarch64"),
    _macos("x86_64", "x86_64"),
    Target(
        name="windows-x86_64",
        zig="x86_64-windows-gnu",
        system="Windows",
        processor="AMD64",
        platform="win_amd64",
        soabi="",
        # The universal C runtime is a part of Windows 10 and later.
        libraries=frozenset({"kernel32.dll", "ntdll.dll", "python3.dll", "python311.dll"}),
    ),
)
