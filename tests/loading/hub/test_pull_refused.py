"""What `pull` cannot do, and with which words: gates, tokens, the network, mirrors, full and read-only disks."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from geminate.errors import DownloadError, GeminateError, ModelNotFoundError
from geminate.loading.hub import download
from geminate.loading.hub import pull as pulling
from geminate.loading.hub.pull import pull
from geminate.loading.locate import locate_model
from support.fake_hub import FakeHub
from support.pulling import BIG, NAME, partials, told


@pytest.mark.parametrize(
    ("token", "says"),
    [
        (None, r"google/gemma-4-E2B-it is gated: accept its licence on https://127\.0\.0\.1:\d+/google/gemma-4-E2B-it, "
               r"then give a token .*HF_TOKEN.*hf auth login"),
        ("hf_other", r"does not accept your token \(Invalid credentials.*HF_TOKEN"),
        (FakeHub.TOKEN, None),
    ],
)  # fmt: skip
def test_licence_gates(pair: FakeHub, token: str | None, says: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.repositories[NAME].gated = True
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    if says is None:
        pull(NAME)
        stored = [one for one in pair.seen if one.path.startswith("/storage/")]
        assert stored and all(one.token is None and one.host == "localhost" for one in stored), "tokens stay at the hub"
        assert all(one.token == token for one in pair.seen if not one.path.startswith("/storage/"))
        return
    with pytest.raises(GeminateError, match=says) as error:
        pull(NAME)
    assert "\n" not in str(error.value) and not pair.downloads(f"{NAME}/model.safetensors")


def test_a_token_without_access(pair: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.repositories[NAME].gated = True
    monkeypatch.setenv("HF_TOKEN", FakeHub.READER)
    with pytest.raises(
        ModelNotFoundError, match=r"is gated, and your token's account has no access: accept its licence"
    ):
        pull(NAME)
    pair.repositories[NAME].gated = False
    pair.statuses[f"/{NAME}/resolve"] = [403] * 9
    with pytest.raises(ModelNotFoundError, match=r"forbids google/gemma-4-E2B-it .*accept its licence on https://"):
        pull(NAME)


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("token", [None, FakeHub.TOKEN])
def test_repositories_that_are_not_there(
    hub: FakeHub, models: dict[str, Path], private: bool, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    if private:
        hub.add("someone/hidden", models["E2B"], private=True)
    if private and token:
        assert pull("someone/hidden", drafter=None).downloaded
        return
    hint = "your token may not see it" if token else "or it is private and needs a token"
    with pytest.raises(
        ModelNotFoundError, match=rf"there is no someone/hidden on 127\.0\.0\.1.*{hint}.*check the name"
    ):
        pull("someone/hidden")


@pytest.mark.parametrize(
    ("statuses", "says"),
    [
        ([429] * 9, r"asks to wait \(status 429.*try again"),
        ([500] * 9, r"has trouble \(status 500\); try again later"),
        ([418], r"refused google/gemma-4-E2B-it"),
    ],
)
def test_refusals_of_the_hub(pair: FakeHub, statuses: list[int], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    pair.statuses["/api/models"] = list(statuses)
    with pytest.raises(DownloadError, match=says) as error:
        pull(NAME)
    assert "\n" not in str(error.value)


def test_a_web_page_instead_of_the_hub(pair: FakeHub) -> None:
    pair.page = True
    with pytest.raises(DownloadError, match=r"is no list of files; check HF_ENDPOINT, and whether .* a login page"):
        pull(NAME)


def test_a_hub_that_names_files_outside_of_the_cache(hub: FakeHub, tmp_path: Path) -> None:
    for name in ("../../../evil.gguf", "/tmp/evil.gguf"):
        hub.add("a/b-GGUF", {name: BIG})
        with pytest.raises(DownloadError, match="is no list of files"):
            pull("a/b-GGUF")
    assert not list(tmp_path.rglob("evil*"))


def test_no_hub_at_all(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"is not here, and nothing can be downloaded: cannot reach 127\.0\.0\.1:9"):
        pull(NAME)


def test_offline(pair: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="is not here, and nothing can be downloaded: HF_HUB_OFFLINE is set"):
        pull(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    first = pull(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    requests = len(pair.seen)
    done, said = told(NAME)
    assert done.target == first.target and "whether there is a newer revision was not asked" in said[0]
    assert locate_model(NAME) == first.target and len(pair.seen) == requests


def test_a_mirror_is_asked_instead(pair: FakeHub, cache: Path) -> None:
    """HF_ENDPOINT is the whole fixture; what it names appears in messages."""
    with pytest.raises(ModelNotFoundError, match=rf"on 127\.0\.0\.1:{pair.port}"):
        pull("nobody/nothing")


def test_the_disk_is_looked_at_first(pair: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match=r"needs .* in .*hub-cache, and 1 kB are free: free .*, or set HF_HOME"):
        pull(NAME)
    assert not [one for one in pair.seen if "/resolve/" in one.path]


def test_a_disk_that_fills_up(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("a/b-GGUF", {"m-Q8_0.gguf": BIG})
    take = download._Sink.write

    def write(self: Any, block: bytes) -> None:
        if self.size + len(block) > 400_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        take(self, block)

    monkeypatch.setattr(download._Sink, "write", write)
    with pytest.raises(DownloadError, match=r"no space left in .*hub-cache while downloading a/b-GGUF.*is kept"):
        pull("a/b-GGUF", drafter=None)
    assert len(partials(cache)) == 1
    monkeypatch.setattr(download._Sink, "write", take)
    assert told("a/b-GGUF", drafter=None)[0].target.read_bytes() == BIG


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_not_be_written(pair: FakeHub, cache: Path) -> None:
    pull(NAME)
    cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(DownloadError, match=r"cannot write .*: Permission denied; set HF_HOME"):
            pull("someone/else")
    finally:
        cache.chmod(0o755)


def test_a_read_only_cache(pair: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = told(NAME)
    real = Path.mkdir

    def mkdir(self: Path, *args: Any, **more: Any) -> None:
        if cache in self.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        real(self, *args, **more)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert told(NAME)[0].target == done.target, "what is there can be used"
    pair.add("a/b-GGUF", {"m-Q8_0.gguf": BIG})
    with pytest.raises(DownloadError, match=r"cannot write .*: Read-only file system; set HF_HOME"):
        pull("a/b-GGUF", drafter=None)


@pytest.mark.parametrize("name", ["nonsense", "a b/c", "/no/such", "x.gguf", ""])
def test_names_that_are_none(name: str, hub: FakeHub) -> None:
    with pytest.raises(ModelNotFoundError, match="is no name of the catalogue"):
        pull(name)
    assert not hub.seen
