"""Answers of the served target to the training prompts, through our own engine, batched and resumable.

By the numeric contract an answer depends on its prompt and seed alone, not on the batch: a run that was interrupted
and went on holds the same file as one that was not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from geminate.engine.engine import Engine
from geminate.engine.messages import EngineRequest
from geminate.errors import TrainingError
from geminate.params import ResolvedSampling
from geminate.tools.train.prompts import Example

BATCH = 16


def answer_all(
    engine: Engine,
    examples: list[Example],
    sampling: ResolvedSampling,
    file: Path,
    *,
    longest: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[int]]:
    """Answer ids by example key; those already in ``file`` are taken from there, new ones are appended.

    Args:
        longest: tokens of prompt and answer together.
        on_progress: called with (examples done, total examples).

    Raises:
        TrainingError: the file cannot be written, or holds something else.
    """
    known = read_answers(file)
    missing = [e for e in examples if e.key not in known]
    # Long prompts together: a batch lasts as long as its longest answer.
    missing.sort(key=lambda e: len(e.prompt))
    for start in range(0, len(missing), BATCH):
        group = missing[start : start + BATCH]
        running = []
        for e in group:
            room = e.sampling(sampling, longest)
            request = EngineRequest(
                request_id=e.key, prompt_ids=e.prompt, sampling=room, speculation=0, choice=e.choice
            )
            running.append((e, engine.add(request)))
        try:
            engine.run()
        except BaseException:
            for _, sequence in running:
                engine.abort(sequence)
            raise
        made = {e.key: sequence.output_ids for e, sequence in running}
        try:
            with file.open("a", encoding="utf-8") as out:
                for key, ids in made.items():
                    out.write(json.dumps({"key": key, "ids": ids}) + "\n")
        except OSError as error:
            raise TrainingError(f"cannot write {file}: {error.strerror}; free some space and start again") from None
        known |= made
        if on_progress is not None:
            on_progress(len(examples) - len(missing) + start + len(group), len(examples))
    return {e.key: known[e.key] for e in examples}


def read_answers(file: Path) -> dict[str, list[int]]:
    """What a file of answers holds; a half-written last line is cut off."""
    if not file.exists():
        return {}
    raw = file.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        file.write_bytes(whole)
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        return {str(line["key"]): [int(i) for i in line["ids"]] for line in lines}
    except (ValueError, KeyError, TypeError):
        raise TrainingError(f"{file} is damaged; remove it to generate the answers again") from None
