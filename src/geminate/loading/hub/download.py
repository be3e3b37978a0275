"""Downloads one file into huggingface-hub's cache so that a cut download continues where it ended, in any process.

huggingface-hub throws a cut file away; so a large file is fetched here, through the library's session, under a name of
ours, compared with the SHA-256 by which the hub knows it, and renamed to the name that the library looks for. The rest,
links and small files, is the library's.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from geminate.errors import DownloadError
from geminate.loading.hub.choice import RemoteFile
from geminate.loading.hub.remote import KEPT, Listing, host, passing
from geminate.loading.hub.snapshots import PARTIAL, folder_of

READ = 8 << 20
RETRIES, LONGEST_WAIT_S = 5, 8.0  # connections in a row that bring nothing
WAIT_S = 0.2  # before somebody is told that another process has the lock
OnBytes = Callable[[int], None]  # called with the bytes of the file that are there


def here_already(listing: Listing, file: RemoteFile, cache: Path) -> int:
    """Bytes of a file that need not be downloaded any more."""
    folder = folder_of(listing.repository, cache)
    if (folder / "snapshots" / listing.commit / file.path).is_file():
        return file.nbytes or 0
    if file.sha256 is None:
        return 0
    blob = folder / "blobs" / file.sha256
    for path in (blob, _partial(blob)):
        try:
            return min(path.stat().st_size, file.nbytes or 0)
        except OSError:
            continue
    return 0


def fetch(
    listing: Listing, file: RemoteFile, cache: Path, on_bytes: OnBytes, on_message: Callable[[str], None]
) -> Path:
    """A file of a repository at its commit, downloaded if it is not there.

    Args:
        on_bytes: what it raises ends the download; what came is kept.
        on_message: called when another process downloads the same file.

    Returns:
        its path in the snapshot.

    Raises:
        DownloadError: what came is not what the hub announced. Others: see `remote.explained`, which translates them.
    """
    from huggingface_hub import constants, hf_hub_download

    folder = folder_of(listing.repository, cache)
    pointer = folder / "snapshots" / listing.commit / file.path
    if pointer.is_file():
        return pointer
    ranged = file.nbytes is not None and file.nbytes <= constants.MAX_HTTP_DOWNLOAD_SIZE
    if file.sha256 is not None and ranged:  # larger ones come by another protocol, which the library speaks
        _fetch_blob(listing, file, folder, on_bytes, on_message)
    return Path(hf_hub_download(listing.repository, file.path, revision=listing.commit, cache_dir=cache))


def _partial(blob: Path) -> Path:
    return blob.with_name(blob.name + PARTIAL)


def _fetch_blob(
    listing: Listing, file: RemoteFile, folder: Path, on_bytes: OnBytes, on_message: Callable[[str], None]
) -> None:
    """Put the contents of a file where huggingface-hub looks for them; one process at a time."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    assert file.sha256 is not None
    blob = folder / "blobs" / file.sha256
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.parent / ".locks" / folder.name / f"{file.sha256}.lock"  # the library's own, so that it waits too
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with WeakFileLock(lock, timeout=WAIT_S):
            _continue(listing, file, blob, on_bytes, on_message)
    except Exception as error:
        if type(error).__name__ != "Timeout":  # filelock's
            raise
        on_message(f"another process downloads {file.path}; waiting for it")
        with WeakFileLock(lock):
            _continue(listing, file, blob, on_bytes, on_message)


def _continue(
    listing: Listing, file: RemoteFile, blob: Path, on_bytes: OnBytes, on_message: Callable[[str], None]
) -> None:
    """Download what is missing of a file, compare it, and give it its name."""
    if blob.exists():
        return
    assert file.nbytes is not None
    partial = _partial(blob)
    with partial.open("a+b") as handle:
        sink = _Sink(handle, on_bytes)
        if sink.size > file.nbytes:
            sink.restart()
        _stream(listing, file, sink, on_message)
        handle.flush()
        os.fsync(handle.fileno())
    if sink.digest != file.sha256:
        partial.unlink(missing_ok=True)
        raise DownloadError(
            f"{file.path} of {listing.repository} came damaged: its SHA-256 is {sink.digest}, {host()} says "
            f"{file.sha256}; it was removed, run the same command again"
        )
    partial.replace(blob)


def _stream(listing: Listing, file: RemoteFile, sink: _Sink, on_message: Callable[[str], None]) -> None:
    """Write what is missing of a file, over as many connections as it takes.

    Raises:
        the client's error once `RETRIES` connections in a row have brought nothing.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

    assert file.nbytes is not None
    # The address of the hub, not of the storage that it redirects to: that one is signed for a short time.
    url = hf_hub_url(listing.repository, file.path, revision=listing.commit)
    failed = 0
    while sink.size < file.nbytes:
        before = sink.size
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if before:
            headers["Range"] = f"bytes={before}-"
        try:
            timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
            with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as answer:
                hf_raise_for_status(answer)
                if answer.status_code != 206:
                    sink.restart()  # all of it comes, whatever was asked
                for block in answer.iter_bytes():  # as it comes: what waits in a buffer is lost when the connection is
                    sink.write(block)
            if sink.size <= before:
                raise DownloadError(f"{host()} sends nothing of {file.path}; {KEPT}")
        except Exception as error:
            failed = 1 if sink.size > before else failed + 1
            if failed > RETRIES or not passing(error):
                raise
            on_message(
                f"the connection to {host()} broke at {100 * sink.size // file.nbytes} % of {file.path}; going on"
            )
            time.sleep(min(2.0 ** (failed - 1), LONGEST_WAIT_S))


class _Sink:
    """A file that knows the SHA-256 of what is in it.

    Args:
        handle: opened for reading and appending. on_bytes: called with the bytes that are in it.
    """

    def __init__(self, handle: IO[bytes], on_bytes: OnBytes) -> None:
        self._handle, self._on_bytes = handle, on_bytes
        self._hash = hashlib.sha256()
        self.size = 0
        handle.seek(0)
        while block := handle.read(READ):
            self._take(block)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that was written."""
        return self._hash.hexdigest()

    def _take(self, block: bytes) -> None:
        self._hash.update(block)
        self.size += len(block)
        self._on_bytes(self.size)

    def restart(self) -> None:
        """Throw everything away."""
        self._handle.truncate(0)
        self._hash, self.size = hashlib.sha256(), 0

    def write(self, block: bytes) -> None:
        """Append."""
        self._handle.write(block)
        self._take(block)
