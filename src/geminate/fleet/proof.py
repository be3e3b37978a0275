"""A short fixed run by which replicas prove that they compute the same bits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from geminate.arrays import F32
from geminate.llm import LLM
from geminate.params import SamplingParams

PROMPT, ANSWER = 24, 8  # tokens
RUNS = (SamplingParams(max_tokens=ANSWER, temperature=0.0, ignore_eos=True),
        SamplingParams(max_tokens=ANSWER, temperature=1.0, top_k=0, top_p=1.0, seed=20, ignore_eos=True))  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What a replica says of itself.

    Attributes:
        weights: `geminate.audit.fingerprints.weights_fingerprint`; the fixed run does not read all of a table.
        run: SHA-256 over the tokens and logits of the fixed run, in hexadecimal.
    """

    weights: str
    run: str


def fixed_run(llm: LLM) -> str:
    """The hash of the fixed run: two answers, greedy and sampled, tokens and raw logits."""
    vocab = llm.config.vocab_size
    prompt = [int(token) for token in np.arange(1, PROMPT + 1, dtype=np.int64) * 7919 % vocab]
    digest = hashlib.sha256()

    def count(position: int, row: F32) -> None:
        digest.update(position.to_bytes(4, "little"))
        digest.update(row.tobytes())

    for params in RUNS:
        answer = llm.generate([prompt], params, speculation="off", on_logits=count)[0]
        digest.update(repr(answer.token_ids).encode())
    return digest.hexdigest()


class Register:
    """What the processes of a fleet agree on: the proof of each model, which is that of its first replica, and whether
    connections are to be accepted.
    """

    def __init__(self) -> None:
        self._known: dict[str, Proof] = {}
        self._accepting = False

    def accept(self, accepting: bool) -> None:
        """Connections are to be accepted, or no more: the fleet ends."""
        self._accepting = accepting

    def accepting(self) -> bool:
        """Whether they are."""
        return self._accepting

    def claim(self, key: str, proof: Proof) -> str | None:
        """Ask to be admitted.

        Args:
            key: the model as the fleet's configuration has it.

        Returns:
            None: admitted. Otherwise what differs, in words.
        """
        first = self._known.setdefault(key, proof)
        if proof == first:
            return None
        what = (
            "the same weights give other bits here: another configuration, version or arithmetic"
            if proof.weights == first.weights
            else "it has other weights"
        )
        return (
            f"its fixed run gives {proof.run[:12]} (weights {proof.weights[:12]}) and that of the first replica "
            f"{first.run[:12]} (weights {first.weights[:12]}): {what}"
        )
