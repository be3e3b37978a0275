"""How the page is served: types, headers, caching, and nothing but its own files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

import geminate.server.page.routes as page

FOLDER = Path(page.__file__).with_name("static")


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(page.page_router())
    return TestClient(app)


def test_all_files_are_served_with_types_and_headers(client: TestClient) -> None:
    types = {
        "html": "text/html",
        "css": "text/css",
        "js": "text/javascript",
        "svg": "image/svg+xml",
        "txt": "text/plain",
    }
    paths = [path for path in FOLDER.rglob("*.*") if path.suffix != ".md"]
    names = sorted(str(path.relative_to(FOLDER)) for path in paths)
    assert names == sorted(page.page_files())
    for name in names:
        answer = client.get(f"/page/{name}")
        assert answer.status_code == 200 and answer.content == (FOLDER / name).read_bytes()
        assert answer.headers["content-type"] == types[name.rsplit(".")[-1]] + "; charset=utf-8"
        assert answer.headers["content-security-policy"] == page.CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-cache"
    assert client.get("/").content == (FOLDER / "index.html").read_bytes()


def test_unchanged_files_are_not_sent_again(client: TestClient) -> None:
    tag = client.get("/").headers["etag"]
    for held in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = client.get("/", headers={"If-None-Match": held})
        assert answer.status_code == 304 and answer.content == b"" and answer.headers["etag"] == tag
    assert client.get("/", headers={"If-None-Match": '"other"'}).status_code == 200


def test_head_has_the_length_and_no_body(client: TestClient) -> None:
    answer = client.head("/page/app.js")
    assert answer.content == b"" and int(answer.headers["content-length"]) == (FOLDER / "app.js").stat().st_size


@pytest.mark.parametrize(
    "path",
    [
        "../page.py",
        "vendor/../../routes.py",
        "vendor",
        "vendor/README.md",
        "%2e%2e%2fpage.py",
        "..%2f..%2ferrors.py",
        "no.js",
        "",
        "APP.JS",
    ],
)
def test_other_files_are_not_there(client: TestClient, path: str) -> None:
    assert client.get(f"/page/{path}").status_code == 404


def test_nothing_comes_from_elsewhere_or_stands_inline() -> None:
    for path in FOLDER.glob("*.*"):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.", text), path.name
        assert not re.search(r"\beval\(|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write", text), (
            path.name
        )
        assert len(text.splitlines()) < 400, path.name
    html = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\bstyle=|\son[a-z]+=|javascript:", html)


def test_every_file_is_used() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.*")}
    for name in texts.keys() - {"index.html", "README.md"}:
        assert any(name in text for other, text in texts.items() if other != name), f"{name} is loaded by nobody"


def test_vendored_files_are_those_that_the_table_names() -> None:
    vendor = FOLDER / "vendor"
    table = (vendor / "README.md").read_text(encoding="utf-8")
    for path in vendor.glob("*.js"):
        content = path.read_bytes()
        assert hashlib.sha256(content).hexdigest() in table and path.with_suffix(".LICENSE.txt").exists()
        assert not re.search(rb"\beval\(|new Function|innerHTML|document\.write", content), path.name
