"""1,000 random bad bodies: an answer every time, and never a 5xx."""

from __future__ import annotations

import json
import random

from fuzz.bodies import explained
from fuzz.mutate import bad_json, dumped, mutated
from fuzz.target import SEEDS
from support.serving import Served

COUNT = 1000


def test_nothing_breaks_it(served: Served) -> None:
    rng = random.Random(5)
    good = [file.read_text().split("\n", 1) for file in sorted((SEEDS / "bodies").iterdir())]
    seen: dict[int, int] = {}
    with served.client() as client:
        for number in range(COUNT):
            path, text = rng.choice(good)
            body = mutated(rng, json.loads(text))
            content = dumped(body) if rng.random() < 0.7 else bad_json(rng, body)
            answer = client.post(path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code < 500, (number, path, content[:2000], answer.text)
            if answer.status_code != 200:
                assert explained(answer), answer.text
            elif "event-stream" in answer.headers["content-type"]:
                assert '"error"' not in answer.text.split("\n\n")[-2], (content, answer.text)
            elif "ndjson" in answer.headers["content-type"]:
                assert "error" not in json.loads(answer.text.splitlines()[-1]), (content, answer.text)
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
    assert seen[400] > COUNT / 2 and set(seen) <= {200, 400, 404, 429}
    served.quiet()
    assert served.process.poll() is None and "unexpected exception" not in "".join(served.raw)
