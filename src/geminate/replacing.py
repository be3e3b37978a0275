"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], prefix: str) -> Iterator[BinaryIO]:
    """A file for writing that takes the name ``path`` at the end; if anything fails before, it is removed.

    Args:
        prefix: of its name until then, of which nobody can guess the rest: in a directory that others can write, a link
            could wait under a known one.

    Raises:
        OSError: it cannot be made, written or renamed; something else has the name, such as a device or a link.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
    try:
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=prefix)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None  # not a name that nobody gave
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
