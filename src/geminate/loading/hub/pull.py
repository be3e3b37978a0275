"""`geminate pull`: target and drafter of a name into huggingface-hub's cache, whole or not at all.

The commit of a branch is written down (``refs/main``) only when every file of it is there: a model that was there
before stays what the name means until the new one is complete.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from geminate.errors import DownloadError, HubUnreachableError, ModelNotFoundError
from geminate.loading.hub.catalogue import known_file
from geminate.loading.hub.choice import Choice, RemoteFile, choose
from geminate.loading.hub.download import fetch, here_already
from geminate.loading.hub.names import ModelName, drafter_repositories, parse_name, suggestions
from geminate.loading.hub.remote import KEPT, Listing, explained, list_repository, offline, remarks
from geminate.loading.hub.snapshots import PARTIAL, find_pulled, folder_of, hub_cache
from geminate.replacing import replacing
from geminate.sizes import gigabytes

MARGIN = 64 << 20  # bytes that stay free beside a download
ABANDONED = 7 * 24 * 3600  # seconds after which a cut download of a file that the repository no longer has is removed
Progress = Callable[[str, int, int], None]  # repository's name and file, bytes that are there, bytes
Message = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A target or a drafter to download.

    Attributes:
        main: its GGUF file, its folder, or "" for the whole repository.
    """

    listing: Listing
    files: tuple[RemoteFile, ...]
    main: str

    @property
    def nbytes(self) -> int:
        """Bytes of all files, as far as the hub says them."""
        return sum(file.nbytes or 0 for file in self.files)

    def missing(self, cache: Path) -> int:
        """Bytes that are still to be downloaded."""
        return self.nbytes - sum(here_already(self.listing, file, cache) for file in self.files)

    def place(self, cache: Path) -> Path:
        """Where it stands afterwards."""
        return folder_of(self.listing.repository, cache) / "snapshots" / self.listing.commit / self.main


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What `pull` did.

    Attributes:
        target, drafter: where they stand; no drafter: None, and drafter_note says why.
        nbytes: of both. downloaded: bytes that came over the network now.
        licence: as the hub says it. repository, drafter_repository: where they come from.
    """

    name: str
    target: Path
    drafter: Path | None
    drafter_note: str
    repository: str
    drafter_repository: str | None
    nbytes: int
    downloaded: int
    licence: str


@dataclass
class _Puller:
    """One pull."""

    name: ModelName
    cache: Path
    on_message: Message
    on_progress: Progress
    downloaded: int = field(default=0, init=False)

    def run(self, drafter: str | None) -> Pulled:
        """See `pull`."""
        target = self._part(self.name.repository, self.name.revision, self.name.tag)
        found, note = self._drafter(target[0], target[1], drafter)
        parts = [target[0]] if found is None else [target[0], found]
        self._announce(parts, note)
        self._check_disk(parts)
        for part in reversed(parts):  # the drafter is small: whatever stops it stops it early
            self._fetch(part)
        for part in parts:
            self._note_commit(part)
        whole = find_pulled(self.name, self.cache).path or target[0].place(self.cache)
        return Pulled(
            name=self.name.text,
            target=whole,
            drafter=None if found is None else found.place(self.cache),
            drafter_note=note,
            repository=self.name.repository,
            drafter_repository=None if found is None else found.listing.repository,
            nbytes=sum(part.nbytes for part in parts),
            downloaded=self.downloaded,
            licence=target[0].listing.licence,
        )

    def _part(self, repository: str, revision: str = "main", tag: str = "") -> tuple[Part, Choice]:
        listing = list_repository(repository, revision)
        choice = choose(repository, listing.files, tag)
        if choice.note:
            self.on_message(choice.note)
        return Part(listing=listing, files=choice.files, main=choice.main), choice

    def _drafter(self, target: Part, choice: Choice, wanted: str | None) -> tuple[Part | None, str]:
        """The drafter to download, and one line on it."""
        if wanted is None:
            return None, "no drafter, as asked"
        if wanted != "auto":
            name = parse_name(wanted)
            if name is None:
                raise ModelNotFoundError(f"{wanted} names no drafter on the hub; it looks like owner/name-assistant")
            return self._part(name.repository, name.revision, name.tag)[0], f"drafter: {wanted}"
        if choice.drafter:
            main = choice.drafter_main
            return (
                Part(listing=target.listing, files=choice.drafter, main=main),
                f"drafter: {main} of the same repository",
            )
        tried = []
        for repository in self._drafter_names(target):
            try:
                return self._part(repository)[0], f"drafter: {repository}"
            except ModelNotFoundError as error:
                tried.append(str(error))
        why = f" ({'; '.join(tried)})" if tried else ""
        return None, f"no drafter was found for {self.name.text}{why}; --drafter names one"

    def _drafter_names(self, target: Part) -> list[str]:
        known = [] if self.name.variant is None else [self.name.variant.drafter]
        rules = drafter_repositories(self.name.repository, target.listing.bases)
        return list(dict.fromkeys([*known, *rules]))

    def _announce(self, parts: Sequence[Part], note: str) -> None:
        target = parts[0]
        licence = f", licence {target.listing.licence}" if target.listing.licence else ", licence unknown"
        sizes = " + ".join(gigabytes(part.nbytes) for part in parts)
        missing = sum(part.missing(self.cache) for part in parts)
        rest = "all of it is here" if not missing else f"{gigabytes(missing)} to download"
        self.on_message(f"{self.name.text}: {target.listing.repository}, {sizes}, {rest}{licence}; {note}")
        for part in parts:
            for file in part.files:
                known = known_file(part.listing.repository, file.path)
                if known.sha256 and file.sha256 and known.sha256 != file.sha256:
                    self.on_message(
                        f"{file.path} is not the revision that the catalogue lists (SHA-256 {file.sha256[:12]}... "
                        f"instead of {known.sha256[:12]}...): the repository was revised since, or a mirror differs"
                    )

    def _check_disk(self, parts: Iterable[Part]) -> None:
        missing = sum(part.missing(self.cache) for part in parts)
        if not missing:
            return
        place = next(path for path in (self.cache, *self.cache.parents) if path.exists())
        free = shutil.disk_usage(place).free
        if free < missing + MARGIN:
            raise DownloadError(
                f"{self.name.text} needs {gigabytes(missing)} in {self.cache}, and {gigabytes(free)} are free: free "
                f"{gigabytes(missing + MARGIN - free)}, or set HF_HOME to a directory on a larger disk"
            )

    def _fetch(self, part: Part) -> None:
        self._sweep(part)
        sizes = sorted(part.files, key=lambda file: file.nbytes or 0)  # what is refused is refused before the weights
        for file in sizes:
            before = here_already(part.listing, file, self.cache)
            known, name = file.nbytes or 0, f"{part.listing.repository.rpartition('/')[2]}/{file.path}"
            with explained(part.listing.repository, self.cache):
                fetch(
                    part.listing,
                    file,
                    self.cache,
                    lambda done, name=name, known=known: self.on_progress(name, done, known),  # type: ignore[misc]
                    self.on_message,
                )
            self.on_progress(name, known, known)
            self.downloaded += max(0, known - before)

    def _note_commit(self, part: Part) -> None:
        """Let the branch mean this commit from now on."""
        revision = self.name.revision if part.listing.repository == self.name.repository else "main"
        if revision == part.listing.commit:
            return
        ref = folder_of(part.listing.repository, self.cache) / "refs" / revision
        with suppress(OSError):
            if ref.read_text(encoding="utf-8") == part.listing.commit:
                return
        with explained(part.listing.repository, self.cache):
            ref.parent.mkdir(parents=True, exist_ok=True)
            with replacing(ref, f".{ref.name}-") as file:
                file.write(part.listing.commit.encode())

    def _sweep(self, part: Part) -> None:
        """Remove cut downloads of files that the repository had once."""
        wanted = {file.sha256 for file in part.listing.files}
        for path in (folder_of(part.listing.repository, self.cache) / "blobs").glob(f"*{PARTIAL}"):
            with suppress(OSError):
                old = time.time() - path.stat().st_mtime > ABANDONED
                if old and path.name.removesuffix(PARTIAL) not in wanted:
                    path.unlink()


def pull(
    name: str,
    *,
    drafter: str | None = "auto",
    cache: Path | None = None,
    on_message: Message = lambda text: None,
    on_progress: Progress = lambda file, done, total: None,
) -> Pulled:
    """Download a model and its drafter, as far as they are not there.

    Args:
        name: of the catalogue, a hub id, ``owner/name-GGUF:Q4_K_M``, or an address of these.
        drafter: ``auto``, the name of one, or None for none.
        cache: huggingface-hub's cache directory; None is what HF_HUB_CACHE and HF_HOME say.
        on_progress: called with (file, bytes that are there, bytes); what it raises ends the download, which the next
            one continues.

    Raises:
        ModelNotFoundError: no such model, or it may not be had. DownloadError: connection, hub or disk.
    """
    parsed = named(name)
    place = hub_cache() if cache is None else cache
    puller = _Puller(name=parsed, cache=place, on_message=on_message, on_progress=on_progress)
    if offline():
        return _here(parsed, place, on_message, "HF_HUB_OFFLINE is set")
    with remarks(on_message):
        try:
            return puller.run(drafter)
        except HubUnreachableError as error:
            if puller.downloaded:
                raise
            return _here(parsed, place, on_message, str(error).removesuffix(f"; {KEPT}"))


def named(text: str) -> ModelName:
    """The model that a text names.

    Raises:
        ModelNotFoundError: none; with names that it may have meant.
    """
    parsed = parse_name(text)
    if parsed is None:
        near = suggestions(text)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ModelNotFoundError(
            f"{text} is no name of the catalogue (geminate list --catalogue) and no hub id (owner/name, or "
            f"owner/name-GGUF:Q4_K_M){hint}"
        )
    return parsed


def _here(name: ModelName, cache: Path, on_message: Message, why: str) -> Pulled:
    """What is in the cache, where nothing can be asked.

    Raises:
        DownloadError: it is not there, or not whole.
    """
    found = find_pulled(name, cache)
    if found.path is None:
        state = "is only partly here" if found.partial else "is not here"
        raise DownloadError(f"{name.text} {state}, and nothing can be downloaded: {why}")
    on_message(f"{name.text} is here; whether there is a newer revision was not asked: {why}")
    return Pulled(
        name=name.text,
        target=found.path,
        drafter=None,
        drafter_note="its drafter was not looked for",
        repository=name.repository,
        drafter_repository=None,
        nbytes=0,
        downloaded=0,
        licence="",
    )
