"""A chat template that does not end costs its own request alone."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from geminate.loading.locate import embedded_pair
from support.serving import Served, chat_body

CHAT = "/v1/chat/completions"
LOOP = (
    "{% if 'loop' in messages[0].content %}"
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
)


@pytest.fixture(scope="module")
def served(packed_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose template loops if the first message says so."""
    model = tmp_path_factory.mktemp("looping") / "model"
    shutil.copytree(embedded_pair()[0], model)
    template = model / "chat_template.jinja"
    template.write_text(LOOP + template.read_text(encoding="utf-8"), encoding="utf-8")
    with Served(str(model), "--drafter", "none", "--model-id", "geminate-embedded") as server:
        yield server.ready()


def test_a_template_that_loops_leaves_the_server_alone(served: Served) -> None:
    answers: list[httpx.Response] = []

    def ask(text: str) -> None:
        with served.client() as client:
            answers.append(client.post(CHAT, json={**chat_body(text), "max_tokens": 4}))

    with served.client() as client:
        assert client.post(CHAT, json={**chat_body("fine"), "max_tokens": 4}).status_code == 200
        thread = threading.Thread(target=ask, args=("loop",))
        thread.start()
        slowest = 0.0
        while thread.is_alive():
            began = time.perf_counter()
            assert client.get("/health/live").status_code == 200
            slowest = max(slowest, time.perf_counter() - began)
        assert client.post(CHAT, json={**chat_body("fine"), "max_tokens": 4}).status_code == 200
    assert slowest < 1.0
    assert answers[0].status_code == 400 and "took longer than 5 s" in answers[0].text
    assert answers[0].json()["error"]["param"] == "messages"
    assert served.stop() == 0
