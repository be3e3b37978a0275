"""Asks the hub: what a repository holds, under which licence, and in words why it refuses."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from geminate.errors import DownloadError, HubUnreachableError, ModelNotFoundError
from geminate.loading.hub.choice import RemoteFile

_COMMIT, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
KEPT = "what was downloaded is kept, and the same command continues"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A repository at one commit.

    Attributes:
        commit: of the revision that was asked for. files: all of them.
        gated: whether its licence has to be accepted first. licence: as the model card says it; "" if it does not.
        bases: hub ids that the card says it was made from.
    """

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]
    gated: bool = False
    licence: str = ""
    bases: tuple[str, ...] = ()


def host() -> str:
    """The hub that is asked: huggingface.co, or what HF_ENDPOINT names."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT).removeprefix("https://").removeprefix("http://").rstrip("/")


def offline() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids connections."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def list_repository(repository: str, revision: str = "main") -> Listing:
    """What a repository holds.

    Raises:
        ModelNotFoundError: there is none of that name, or nobody may see it. DownloadError: the hub cannot be asked.
    """
    from huggingface_hub import HfApi, constants

    try:
        with explained(repository):
            timeout = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
            info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=timeout)
        return _listing(repository, info)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DownloadError(
            f"what {host()} answers about {repository} is no list of files; check HF_ENDPOINT, and whether a proxy or "
            "a login page answers instead of the hub"
        ) from None


def _listing(repository: str, info: Any) -> Listing:
    """What the hub's API says of a repository.

    Raises:
        ValueError: names that lead out of the cache.
    """
    card: Mapping[str, Any] = info.card_data.to_dict() if info.card_data is not None else {}
    bases = card.get("base_model") or ()
    files = tuple(
        RemoteFile(path=one.rfilename, nbytes=one.size, sha256=None if one.lfs is None else one.lfs.sha256)
        for one in info.siblings or ()
    )
    if not _COMMIT.fullmatch(info.sha) or any(file.sha256 and not _SHA256.fullmatch(file.sha256) for file in files):
        raise ValueError("hashes")
    if any(PurePosixPath(file.path).is_absolute() or ".." in file.path.split("/") for file in files):
        raise ValueError("paths")
    return Listing(
        repository=repository,
        commit=info.sha,
        files=files,
        gated=bool(info.gated),
        licence=str(card.get("license") or ""),
        bases=tuple(str(base) for base in ([bases] if isinstance(bases, str) else bases)),
    )


@contextmanager
def explained(repository: str, where: Path | None = None) -> Iterator[None]:
    """What the hub, the connection or the disk refuse, in one line with the way out.

    Args:
        where: the cache directory that is written.

    Raises:
        ModelNotFoundError: the repository or file is not there, or not for this user.
        DownloadError: everything else.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise ModelNotFoundError(_gated(repository)) from None
    except RepositoryNotFoundError:
        raise ModelNotFoundError(_hidden(repository)) from None
    except RevisionNotFoundError:
        raise ModelNotFoundError(f"{repository} has no such revision; leave it out to take the newest one") from None
    except OfflineModeIsEnabled:
        raise HubUnreachableError(
            f"HF_HUB_OFFLINE is set, so {repository} is not downloaded; unset it, or copy the files from a machine "
            "that has them and name them by their path"
        ) from None
    except HFValidationError:
        raise ModelNotFoundError(f"{repository} is no name of a repository; it looks like owner/name") from None
    except HfHubHTTPError as error:
        raise _answered(repository, error) from None
    except EntryNotFoundError as error:  # what the library makes of any trouble with a file that is not in its cache
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise _answered(repository, cause) from None
        raise _unreachable(repository) from None
    except OSError as error:
        raise _system(repository, error, where) from None
    except Exception as error:
        if not _of_client(error):
            raise
        raise _unreachable(repository, f" ({_first_line(error)})") from None


@contextmanager
def remarks(on_message: Callable[[str], None] | None) -> Iterator[None]:
    """What huggingface-hub logs meanwhile goes to ``on_message``."""
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()  # ours are drawn instead
    logger, ours, silence = logging.getLogger("huggingface_hub"), _Handler(on_message), _Silence()
    others = [handler for handler in logger.handlers if not isinstance(handler, _Handler)]
    logger.addHandler(ours)
    for handler in others:
        handler.addFilter(silence)
    try:
        yield
    finally:
        for handler in others:
            handler.removeFilter(silence)
        logger.removeHandler(ours)


class _Silence(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        return False


class _Handler(logging.Handler):
    def __init__(self, on_message: Callable[[str], None] | None) -> None:
        super().__init__(logging.WARNING)
        self._on_message = on_message

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if self._on_message is None:
            return
        self._on_message(" ".join(record.getMessage().split()))


def passing(error: Exception) -> bool:
    """Whether an error of a download may be over with the next try: a broken connection, or a hub that is busy."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else 0
        return status in (408, 429) or status >= 500
    return isinstance(error, DownloadError) or _of_client(error)


def has_token() -> bool:
    """Whether there is a token: HF_TOKEN, or what `hf auth login` kept."""
    from huggingface_hub import get_token

    return get_token() is not None


def _gated(repository: str) -> str:
    page = f"https://{host()}/{repository}"
    if has_token():
        return (
            f"{repository} is gated, and your token's account has no access: accept its licence on {page} with that "
            "account (owners may take a while to grant it); a fine-grained token needs the right to read gated "
            "repositories"
        )
    return (
        f"{repository} is gated: accept its licence on {page}, then give a token of that account: set HF_TOKEN, or run "
        "'hf auth login' once"
    )


def _hidden(repository: str) -> str:
    more = "" if has_token() else ", or it is private and needs a token (HF_TOKEN, or 'hf auth login')"
    also = " (or your token may not see it)" if has_token() else ""
    return f"there is no {repository} on {host()}{more}{also}; check the name"


def _unreachable(repository: str, why: str = "") -> HubUnreachableError:
    return HubUnreachableError(
        f"cannot reach {host()} for {repository}{why}: check the connection, the proxy, and HF_ENDPOINT if a mirror is "
        f"meant; {KEPT}"
    )


def _answered(repository: str, error: Any) -> DownloadError | ModelNotFoundError:
    """A refusal of the hub that is no missing repository."""
    status = error.response.status_code if error.response is not None else 0
    said = error.response.headers.get("X-Error-Message") if error.response is not None else None
    if status == 401 and "credentials" not in (said or ""):  # the hub's answer to anybody about what is not public
        return ModelNotFoundError(_hidden(repository))
    if status == 401:
        return DownloadError(
            f"{host()} does not accept your token ({said or 'status 401'}): correct HF_TOKEN, or run 'hf auth login' "
            "again; models that are not gated need none"
        )
    if status == 403:
        return ModelNotFoundError(
            f"{host()} forbids {repository} ({said or 'status 403'}): accept its licence on "
            f"https://{host()}/{repository} if it has one, and give a token with the right to read it"
        )
    if status == 404:
        return ModelNotFoundError(f"{host()} has no such file of {repository} ({said or 'status 404'})")
    if status == 429:
        return DownloadError(
            f"{host()} asks to wait (status 429, too many requests): try again in a few minutes, or give a token "
            f"(HF_TOKEN), which may ask more often; {KEPT}"
        )
    if status >= 500:
        return DownloadError(f"{host()} has trouble (status {status}); try again later: {KEPT}")
    return DownloadError(f"{host()} refused {repository}: {said or _first_line(error)}; {KEPT}")


def _system(repository: str, error: OSError, where: Path | None) -> DownloadError:
    """An error of the disk, or one that huggingface-hub reports as such."""
    place = where if error.filename is None else error.filename
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DownloadError(
            f"no space left in {where or place} while downloading {repository}: free some, or set HF_HOME to a "
            f"directory on a larger disk; {KEPT}"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DownloadError(
            f"cannot write {place}: {os.strerror(error.errno)}; set HF_HOME to a directory that you may write, or let "
            "the owner of that cache download the model"
        )
    if error.errno is not None:
        return DownloadError(f"cannot download {repository}: {place}: {error.strerror}; {KEPT}")
    return DownloadError(f"cannot download {repository}: {_first_line(error)}; {KEPT}")


def _of_client(error: Exception) -> bool:
    """Whether an error is the HTTP client's, whichever one huggingface-hub uses."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests", "urllib3")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
