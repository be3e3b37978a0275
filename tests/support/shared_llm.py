"""Many threads on one `LLM`, each answer compared with a single call's. Run as a script it exits 1 on a difference."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

from geminate import LLM, SamplingParams

PROMPTS = ("Once upon a time", "The capital of", "What is 3 + 4?", "A fox saw a boat on the river, and the boat")
QUESTIONS = ("Tell me a short story.", "Why?", "And then?")
MODES = ("off", "auto", 3, "ngram")


def params(number: int) -> SamplingParams:
    """Of answer ``number``: lengths, temperatures and seeds differ, some stop at a string."""
    return SamplingParams(
        max_tokens=8 + number % 23,
        temperature=(number % 3) * 0.5,
        seed=number % 5,
        stop=["the"] if number % 4 == 3 else [],
    )


class Answers:
    """Answers by number; every number is answered the same way each time.

    Args:
        llm: shared by all threads.
    """

    def __init__(self, llm: LLM) -> None:
        self.llm = llm

    def one(self, number: int) -> object:
        """What answer ``number`` says: a text, texts of a session's turns, or the beginning of an abandoned stream."""
        prompt, mode = PROMPTS[number % len(PROMPTS)], MODES[number // 3 % len(MODES)]
        kind = number % 5
        if kind == 0:
            return [o.text for o in self.llm.generate([prompt, prompt + " and"], params(number), speculation=mode)]
        if kind == 1:
            return "".join(delta.text for delta in self.llm.stream(prompt, params(number), speculation=mode))
        if kind == 2:
            return self._session(number)
        if kind == 3:
            stream = self.llm.stream(prompt, params(number), speculation=mode)
            first = next(stream).token_ids[0]
            if number % 2:
                stream.close()
            return first  # else it is left to the garbage collector
        return asyncio.run(self._in_a_loop(number))

    def _session(self, number: int) -> list[str]:
        session = self.llm.session(system="Be short.")
        texts = []
        for question in QUESTIONS[: 1 + number % 3]:
            texts.append("".join(delta.text for delta in session.stream(question, params(number))))
        return texts

    async def _in_a_loop(self, number: int) -> list[str]:
        def ask(text: str) -> str:
            return self.llm.generate(text, params(number))[0].text

        return list(await asyncio.gather(*(asyncio.to_thread(ask, text) for text in PROMPTS[:2])))


def differing(llm: LLM, count: int, threads: int = 8) -> list[int]:
    """Numbers of the answers that differ between ``threads`` threads at once and one after the other."""
    answers = Answers(llm)
    numbers = [i % 60 for i in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        together = list(pool.map(answers.one, numbers))
    single = {number: answers.one(number) for number in set(numbers)}
    return [number for number, answer in zip(numbers, together, strict=True) if answer != single[number]]


if __name__ == "__main__":
    wrong = differing(LLM(threads=int(sys.argv[1])), int(sys.argv[2]))
    print(f"{len(wrong)} of {sys.argv[2]} answers differ: {wrong[:10]}")
    sys.exit(bool(wrong))
