"""Options of ``geminate train drafter``, declared once; free of torch, so that ``--help`` needs no extra."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from geminate.errors import ParameterError

LossName = Literal["lk", "mix", "ce", "tv"]
LOSSES: tuple[LossName, ...] = get_args(LossName)
DTYPES = ("auto", "float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")


def _option(default: Any, help: str, *flags: str, **meta: str) -> Any:
    named = {"flags": flags} if flags else {}
    return field(default=default, metadata={"help": help, **named, **meta})


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What decides a training run besides `LoadOptions`; a field's metadata make its command-line option.

    Raises:
        ParameterError: an unknown loss, dtype or device.
    """

    data: Path = field(metadata={"help": "Prompts: .jsonl or .txt, or a directory of such files."})
    out: Path = field(metadata={"help": "Directory of the new drafter; DIR.training beside it is for work files."})
    target: str | None = _option(
        None, "Target: directory, GGUF file or pulled model.", "--target", empty="the embedded pair"
    )
    drafter: str | None = _option(
        "auto", "The drafter to beat: auto, none, a directory, GGUF file or pulled model.", none="none"
    )
    init: str = _option(
        "", "Start from: drafter (the one to beat), scratch, or a directory.", empty="drafter; scratch without one"
    )
    as_is: bool = _option(False, "Train on the answers in the data instead of the target's own.")
    hours: float = _option(0.5, "Time for the training itself.")
    updates: int | None = _option(None, "Number of updates, instead of --hours.", empty="by --hours")
    max_length: int = _option(384, "Maximum number of tokens of prompt and answer together.")
    new_tokens: int = _option(160, "Maximum number of tokens per answer.")
    temperature: float | None = _option(
        None, "Temperature of answers and gate.", "--temperature", "-t", empty="the model's"
    )
    batch_tokens: int = _option(4096, "Tokens per forward pass.")
    accumulate: int = _option(1, "Forward passes per update.")
    learning_rate: float | None = _option(None, "Peak learning rate.", empty="5e-4; from scratch 2e-3")
    loss: str = _option("lk", "lk, mix, ce or tv: see docs/training.md.")
    soft: float = _option(0.4, "Weight of the target's softmax; the rest is on its most likely token.")
    draft_steps: int = _option(4, "Number of draft steps unrolled in training.")
    own_tokens: float = _option(0.3, "Fraction of training rounds that continue from the drafter's own draft tokens.")
    sampled: int = _option(2048, "Number of random tokens scored beside the target's most likely ones.")
    evaluate_every: int = _option(100, "Number of updates between held-out measurements.")
    hidden: int | None = _option(None, "From scratch: hidden size.", empty="chosen by the target's")
    layers: int | None = _option(None, "From scratch: number of layers.", empty="chosen by the target's")
    heads: int | None = _option(None, "From scratch: number of attention heads.", empty="chosen by the target's")
    intermediate: int | None = _option(None, "From scratch: MLP width.", empty="chosen by the target's")
    centroid_head: bool = _option(True, "From scratch: use a full output head, without clusters.", "--no-centroids")
    centroids: int | None = _option(
        None, "From scratch: number of token clusters of the centroid head.", empty="chosen by the vocabulary"
    )
    seed: int = _option(0, "Random seed for answers, shuffling and initial weights.")
    cache_gb: float = _option(
        10.0, "Disk space (GB) for cached target outputs; 0 recomputes them every epoch.", "--lessons-gb"
    )
    device: str = _option("auto", "cpu, cuda, or auto: where the drafter is trained.")
    dtype: str = _option("auto", "auto, float32 or bfloat16: arithmetic of the drafter's layers.")
    tensorboard: Path | None = field(
        default=None,
        metadata={
            "help": "Directory for TensorBoard's event files; the curves are in OUT.training/curves.csv anyway.",
            "empty": "none",
        },
    )
    restart: bool = _option(False, "Discard an earlier run's checkpoints and start over.")

    def __post_init__(self) -> None:
        for name, value, legal in (
            ("loss", self.loss, LOSSES),
            ("dtype", self.dtype, DTYPES),
            ("device", self.device, DEVICES),
        ):
            if value not in legal:
                raise ParameterError(f"--{name} must be {', '.join(legal[:-1])} or {legal[-1]}, not {value!r}")

    @property
    def start(self) -> str:
        """What the drafter starts from: ``drafter``, ``scratch`` or a directory."""
        return self.init or ("scratch" if self.drafter is None else "drafter")

    @property
    def peak_rate(self) -> float:
        """Peak learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 2e-3 if self.start == "scratch" else 5e-4
