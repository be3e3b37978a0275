"""`geminate train drafter` from end to end: data, answers, training, the gate, and the directory that comes out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from geminate.errors import ParameterError, TrainingError
from geminate.families.registry import load_assistant_config, open_model
from geminate.llm import LLM
from geminate.loading.options import LoadOptions
from geminate.loading.pairing import RECORD, SURVIVAL, record
from geminate.params import ResolvedSampling, SamplingParams
from geminate.runtime.drafter import RopePosition
from geminate.tools.train.answers import answer_all
from geminate.tools.train.card import model_card
from geminate.tools.train.checkpoint import load_drafter, save_drafter, scratch_config
from geminate.tools.train.clusters import cluster_tokens, principal_rows
from geminate.tools.train.curves import FILE, Curves, check_tensorboard
from geminate.tools.train.drafter import Drafter
from geminate.tools.train.gate import Comparison, Served, compare, is_better, serve, survival
from geminate.tools.train.hardware import chosen_device, has_fast_bf16
from geminate.tools.train.loop import Loop, LoopSettings, Progress, State, Text
from geminate.tools.train.options import LossName, TrainOptions
from geminate.tools.train.prompts import Example, Examples, read_examples, split
from geminate.tools.train.rounds import LossSettings
from geminate.tools.train.teacher import Teacher
from geminate.tools.train.teacher_cache import TeacherCache
from geminate.tools.train.workspace import BEST, Workspace
from geminate.weights.presets import Preset, check_preset

GATE_DRAFT = 4
Stage = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that decides a run; see `geminate train drafter --help`.

    Attributes:
        target, adapter, drafter: as for `geminate.LLM`; ``drafter`` is the old one, which the gate compares with.
        init: ``drafter`` (the old one), ``scratch``, or a drafter's directory.
        temperature: of the answers and of the gate; None is the model's own setting.
        cache_gb: disk space for the teacher targets, kept until the training is done.
    """

    target: str | None
    adapter: tuple[str, ...]
    drafter: str | None
    weights: Preset
    data: Path
    out: Path
    init: str
    as_is: bool
    max_length: int
    new_tokens: int
    temperature: float | None
    rope_position: RopePosition
    hidden: int | None
    layers: int | None
    heads: int | None
    intermediate: int | None
    centroid_head: bool
    centroids: int | None
    cache_gb: float
    threads: int | None
    device: str
    tensorboard: Path | None
    loop: LoopSettings

    @classmethod
    def of(cls, options: TrainOptions, loaded: LoadOptions) -> Job:
        """The run that these options describe; of ``loaded`` weights, adapter, threads and rope_position count."""
        o, device = options, chosen_device(options.device)
        loss = LossSettings(
            name=cast(LossName, o.loss), steps=o.draft_steps, soft=o.soft, own_tokens=o.own_tokens, sampled=o.sampled
        )
        loop = LoopSettings(
            steps=o.updates,
            hours=o.hours,
            batch_tokens=o.batch_tokens,
            accumulate=o.accumulate,
            rate=o.peak_rate,
            weight_decay=0.01,
            clip=1.0,
            seed=o.seed,
            evaluate_every=o.evaluate_every,
            bf16=o.dtype == "bfloat16" or (o.dtype == "auto" and has_fast_bf16(device)),
            loss=loss,
        )
        return cls(
            target=o.target,
            adapter=tuple(str(named) for named in loaded.adapters),
            drafter=o.drafter,
            weights=loaded.weights,
            data=o.data,
            out=o.out,
            init=o.start,
            as_is=o.as_is,
            max_length=o.max_length,
            new_tokens=o.new_tokens,
            temperature=o.temperature,
            rope_position=loaded.rope_position,
            hidden=o.hidden,
            layers=o.layers,
            heads=o.heads,
            intermediate=o.intermediate,
            centroid_head=o.centroid_head,
            centroids=o.centroids,
            cache_gb=o.cache_gb,
            threads=loaded.threads,
            device=device,
            tensorboard=o.tensorboard,
            loop=loop,
        )

    def described(self) -> dict[str, Any]:
        """For plan.json and the model card; what may change between a run and its resumption is left out."""
        found = asdict(self)
        for name in ("out", "threads", "device", "cache_gb", "tensorboard"):
            del found[name]
        if self.centroids is None:
            del found["centroids"]  # so that runs begun before the option existed go on
        if not self.adapter:
            del found["adapter"]
        return {k: str(v) if isinstance(v, Path) else v for k, v in found.items()}


@dataclass(frozen=True)
class Outcome:
    """What came out: where, whether better, and the comparisons."""

    directory: Path
    better: bool
    comparisons: list[Comparison]
    state: State


def check(job: Job) -> None:
    """Refuse settings that cannot work, before anything is loaded.

    Raises:
        ParameterError: with the limits.
    """
    check_preset(job.weights)
    loop, loss = job.loop, job.loop.loss

    def within(name: str, value: float, low: float, high: float) -> None:
        if not (math.isfinite(value) and low <= value <= high):
            raise ParameterError(f"{name} must be {low:g} to {high:g}, not {value:g}")

    within("--hours", loop.hours, 0.001, 10_000)
    if loop.steps is not None:
        within("--updates", loop.steps, 1, 10**9)
    within("--learning-rate", loop.rate, 1e-9, 1.0)
    within("--batch-tokens", loop.batch_tokens, 16, 1 << 22)
    within("--accumulate", loop.accumulate, 1, 1 << 16)
    within("--draft-steps", loss.steps, 1, 16)
    within("--soft", loss.soft, 0.0, 1.0)
    within("--own-tokens", loss.own_tokens, 0.0, 1.0)
    within("--sampled", loss.sampled, 1, 1 << 20)
    within("--evaluate-every", loop.evaluate_every, 1, 10**9)
    within("--max-length", job.max_length, 8, 1 << 20)
    within("--lessons-gb", job.cache_gb, 0, 1e6)
    within("--new-tokens", job.new_tokens, 1, 1 << 20)
    for name in ("hidden", "layers", "heads", "intermediate", "centroids"):
        value = getattr(job, name)
        if value is not None:
            within(f"--{name}", value, 1, 1 << 16)
            if job.init != "scratch":
                raise ParameterError(f"--{name} is for a drafter made with --init scratch")
    if job.max_length > loop.batch_tokens:
        raise ParameterError(f"--max-length {job.max_length} is more than --batch-tokens {loop.batch_tokens}")
    if not job.centroid_head and job.init != "scratch":
        raise ParameterError("--no-centroids is for a drafter made with --init scratch; others stay as they are")
    if job.centroids is not None and not job.centroid_head:
        raise ParameterError("--centroids and --no-centroids exclude each other")
    if job.tensorboard is not None:
        check_tensorboard()


def run(
    job: Job,
    *,
    command: str,
    restart: bool = False,
    on_message: Callable[[str], None] = print,
    on_stage: Stage | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train, compare, write; goes on where an earlier run of the same command stopped.

    Args:
        command: for the model card. on_stage: called with (what, done, total) of the parts that are not training.

    Raises:
        GeminateError: with the cause and the way out. KeyboardInterrupt: the best so far and a checkpoint stay.
    """
    check(job)
    stage = on_stage or (lambda what, done, total: None)
    work = Workspace(job.out.with_name(job.out.name + ".training"), job.described())
    work.prepare(restart=restart)
    try:
        return _run(job, work, command, on_message, stage, on_progress or (lambda progress: None))
    finally:
        work.leave()


def _run(
    job: Job,
    work: Workspace,
    command: str,
    on_message: Callable[[str], None],
    stage: Stage,
    on_progress: Callable[[Progress], None],
) -> Outcome:
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    llm = LLM(
        job.target,
        adapter=job.adapter,
        drafter=job.drafter,
        weights=job.weights,
        threads=job.threads,
        rope_position=job.rope_position,
        on_message=on_message,
    )
    found = read_examples(job.data, llm, as_is=job.as_is, longest=job.max_length, on_message=on_message)
    examples = split(found)
    sampling = llm.resolve(SamplingParams(max_tokens=job.new_tokens, temperature=job.temperature, seed=job.loop.seed))
    drafter, raw = _begun(job, llm)  # what cannot be begun with must not cost the time of the answers
    texts, held_out = _texts(job, llm, examples, sampling, work, stage)
    if not texts or not held_out:
        work.forget_answers()
        raise TrainingError("no text is left to learn from: the answers are too short; raise --new-tokens")
    drafter.to(job.device)
    if job.init == "scratch" and not work.checkpoint.exists():  # else the checkpoint brings table and clusters
        _fill(drafter, llm, stage, on_message)
    teacher = TeacherCache(Teacher(llm.pair.target), work.path / "teacher", int(job.cache_gb * 1e9))
    curves = Curves(work.path / FILE, job.tensorboard)

    def progress(p: Progress) -> None:
        curves.add(p)
        on_progress(p)

    try:
        loop = Loop(drafter, raw, teacher, texts, held_out, job.loop, work.path, progress)
        if loop.resume():
            on_message(f"going on from update {loop.state.step} of {loop.state.steps}")
        state = loop.run()
    finally:
        curves.close()
    teacher.clear()
    comparisons, shares = _gate(job, llm, loop.best, examples.held_out, sampling, stage)
    counts = {"training": len(texts), "held_out": len(held_out)}
    made = {**record(llm.pair), "tokens_per_round": round(comparisons[0].new, 4), SURVIVAL: shares}
    return _written(job, llm, work, command, state, comparisons, counts, {**raw, RECORD: made})


def _written(
    job: Job,
    llm: LLM,
    work: Workspace,
    command: str,
    state: State,
    comparisons: list[Comparison],
    counts: dict[str, int],
    raw: dict[str, Any],
) -> Outcome:
    """The best drafter with its card, in its place or, if it is not better, in the work directory."""
    better = is_better(comparisons)
    best, _ = load_drafter(work.path / BEST, llm.config, job.rope_position)
    card = model_card(
        target=job.target or "the embedded pair",
        data=str(job.data),
        command=command,
        settings=job.described(),
        history=state.history,
        comparisons=comparisons,
        better=better,
        examples=counts,
    )
    directory = job.out if better else work.path / "not-better"
    save_drafter(best, raw, directory, card)
    return Outcome(directory, better, comparisons, state)


def _texts(
    job: Job, llm: LLM, examples: Examples, sampling: ResolvedSampling, work: Workspace, stage: Stage
) -> tuple[list[Text], list[Text]]:
    both = [*examples.training, *examples.held_out]
    if job.as_is:
        answers = {e.key: e.answer or [] for e in both}
    else:
        answers = answer_all(
            llm.new_engine(),
            both,
            sampling,
            work.answers,
            longest=job.max_length,
            on_progress=lambda done, total: stage("answers of the target", done, total),
        )

    def texts(part: list[Example]) -> list[Text]:
        # A round needs a bonus token and a draft token: shorter answers teach nothing.
        return [Text([*e.prompt, *answers[e.key]], len(e.prompt)) for e in part if len(answers[e.key]) >= 3]

    return texts(examples.training), texts(examples.held_out)


def _begun(job: Job, llm: LLM) -> tuple[Drafter, dict[str, Any]]:
    """The drafter to begin with and its config.json; one from scratch still lacks table and clusters."""
    located = llm.pair.located
    if job.init == "drafter":
        if located.drafter is None:
            raise TrainingError("this target has no drafter to start from; use --init scratch or --init DIR")
        return load_drafter(located.drafter, llm.config, job.rope_position)
    if job.init != "scratch":
        return load_drafter(Path(job.init), llm.config, job.rope_position)
    raw = scratch_config(
        llm.config,
        dict(open_model(located.target).raw),
        hidden=job.hidden,
        layers=job.layers,
        heads=job.heads,
        intermediate=job.intermediate,
        centroid_head=job.centroid_head,
        centroids=job.centroids,
    )
    torch.manual_seed(job.loop.seed)
    drafter = Drafter(load_assistant_config(raw), job.rope_position)
    _initialise(drafter)
    return drafter, raw


@torch.no_grad()
def _fill(drafter: Drafter, llm: LLM, stage: Stage, on_message: Callable[[str], None]) -> None:
    """Table and clusters of a drafter from scratch, where it stands."""
    own = sum(p.numel() for p in drafter.parameters())
    on_message(f"a new drafter: {own / 1e6:.1f} M parameters, a table of {drafter.table.numel() / 1e6:.1f} M")
    table = torch.from_numpy(llm.pair.target.store.embedding().dequantized()).to(drafter.table.device)
    drafter.table.copy_(principal_rows(table, drafter.config.text.hidden_size))
    if drafter.centroids is not None:
        cluster_tokens(drafter, on_round=lambda done, total: stage("clusters of the vocabulary", done, total))


@torch.no_grad()
def _initialise(drafter: Drafter) -> None:
    """Normal weights of variance 1 / inputs, smaller where a block writes into the residual stream."""
    for name, p in drafter.named_parameters():
        if p.dim() == 2 and "centroids" not in name:
            p.normal_(std=p.shape[1] ** -0.5 * (0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0))
    for layer in drafter.model.layers:
        layer.self_attn.q_norm.weight.fill_(layer.self_attn.dim**-0.5)  # type: ignore[union-attr, operator]


def _gate(
    job: Job, llm: LLM, best: Path, held_out: list[Example], sampling: ResolvedSampling, stage: Stage
) -> tuple[list[Comparison], list[float]]:
    """Old and new drafter on the held-out prompts, as served; and the new one's survival by position."""
    total, done = 2 * len(held_out), 0

    def tick() -> None:
        nonlocal done
        done += 1
        stage("the gate: held-out prompts", done, total)

    def served(by: LLM) -> list[Served]:
        return serve(by, held_out, sampling, k=GATE_DRAFT, longest=job.max_length, on_done=tick)

    old = served(llm)
    fresh = LLM(
        job.target,
        adapter=job.adapter,
        drafter=best,
        weights=job.weights,
        threads=job.threads,
        rope_position=job.rope_position,
    )
    new = served(fresh)
    return compare(old, new), survival(new)
