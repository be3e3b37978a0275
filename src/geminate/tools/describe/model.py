"""Everything that is known of a model by its name: what it is, where it is, what it needs, how fast it should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from geminate.checkpoint.entries import Entry
from geminate.errors import BackendError, ModelNotFoundError
from geminate.families.registry import load_assistant_config, open_model
from geminate.kv.store import KVFormat
from geminate.loading.drafters import DrafterChoice
from geminate.loading.hub.catalogue import KnownModel, Variant
from geminate.loading.hub.choice import Choice, choose
from geminate.loading.hub.names import ModelName, parse_name, shape_of
from geminate.loading.hub.remote import Listing, list_repository, offline
from geminate.loading.load import Pair, locate
from geminate.loading.locate import EMBEDDED
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.speculation.costs import CostProfile
from geminate.tools.bench.shapes import load_shape
from geminate.tools.capacity.expected import costs_of
from geminate.tools.capacity.here import Here, here
from geminate.tools.describe.needs import Needs, formats_of, needs_of, parameters, unread_embeddings
from geminate.weights.presets import Preset, check_preset, row_scaled_preset
from geminate.weights.specs import match


@dataclass(frozen=True, kw_only=True)
class Described:
    """A model.

    Attributes:
        title: as the user named it. path: where it stands here; None: it was not pulled.
        name: on the hub, None for a path. listing, choice: what the hub says, where it was asked.
        config, assistant: None where the shape is not known.
        drafter: what was found; None where the target is not here.
        formats: what it needs in each format, that in which it would be served first.
        here: this machine; None where kernels are missing. file_bytes: of the weights here.
    """

    title: str
    path: Path | None
    name: ModelName | None
    listing: Listing | None
    choice: Choice | None
    config: TargetConfig | None
    assistant: AssistantConfig | None
    drafter: DrafterChoice | None
    formats: tuple[Needs, ...]
    here: Here | None
    file_bytes: int | None

    @property
    def known(self) -> KnownModel | None:
        """Of the catalogue."""
        return None if self.name is None else self.name.known

    @property
    def variant(self) -> Variant | None:
        """Of the catalogue."""
        return None if self.name is None else self.name.variant

    @property
    def parameters(self) -> int | None:
        """Of the target's text part."""
        return None if self.config is None else parameters(self.config)


def describe(
    model: str,
    *,
    kv: KVFormat = "f16",
    measure: bool = True,
    on_message: Callable[[str], None] = lambda text: None,
) -> Described:
    """A model by its path, a name of the catalogue, or a hub id; the hub is asked only of what is not here and unknown.

    Args:
        measure: probe this machine's rates if there are none yet.

    Raises:
        GeminateError: no such model; or the hub cannot be asked.
    """
    name = None if model == EMBEDDED or Path(model).expanduser().exists() else parse_name(model)
    machine = _here(measure, on_message)
    try:
        located = locate(model, "auto")
    except ModelNotFoundError:
        if name is None:
            raise
        return _remote(model, name, kv, machine, on_message)
    source = open_model(located.target)
    config = source.target_config()
    assistant = None if located.drafter is None else load_assistant_config(located.drafter)
    entries = match(source.tensors, config, str(located.target)).tensors
    return Described(
        title=model,
        path=located.target,
        name=name,
        listing=None,
        choice=None,
        config=config,
        assistant=assistant,
        drafter=DrafterChoice(path=located.drafter, note=located.drafter_note, where=located.drafter_where),
        formats=_formats(config, assistant, machine, kv, entries, "auto"),
        here=machine,
        file_bytes=sum(path.stat().st_size for path in source.checkpoint.files),
    )


def describe_pair(
    pair: Pair,
    profile: CostProfile | None,
    *,
    measure: bool = True,
    on_message: Callable[[str], None] = lambda text: None,
) -> Described:
    """A loaded pair.

    Args:
        profile: what its passes took here, if the engine has measured them; else they are computed.
        measure: probe this machine's rates if there are none yet.
    """
    target, located = pair.target, pair.located
    config = target.config
    assistant = None if pair.drafter is None else pair.drafter.config
    entries = None
    if pair.source is not None:
        entries = match(pair.source.tensors, config, str(located.target)).tensors
    machine = _here(measure, on_message)
    served = check_preset(target.store.format)
    formats = list(_formats(config, assistant, machine, target.kv_format, entries, served))
    if profile is not None and formats:
        basis = f"{target.backend.isa}, {target.backend.threads} threads, kept beside the packed weights"
        formats[0] = needs_of(
            config, assistant, served, machine, kv=target.kv_format, entries=entries, costs=costs_of(profile, basis)
        )
    return Described(
        title=str(located.target), path=located.target, name=None, listing=None, choice=None, config=config,
        assistant=assistant,
        drafter=DrafterChoice(path=located.drafter, note=located.drafter_note, where=located.drafter_where),
        formats=tuple(formats), here=machine,
        file_bytes=None if pair.source is None else sum(p.stat().st_size for p in pair.source.checkpoint.files),
    )  # fmt: skip


def _remote(
    model: str, name: ModelName, kv: KVFormat, machine: Here | None, on_message: Callable[[str], None]
) -> Described:
    """A model that is not here: by the catalogue, else as the hub lists it."""
    listing, choice = None, None
    shape = shape_of(f"{name.repository}-{name.tag}") if name.known is None else name.known.shape
    if name.known is None:
        if offline():
            raise ModelNotFoundError(
                f"{model} is not on this machine nor in the catalogue, and HF_HUB_OFFLINE forbids to ask the hub"
            )
        listing = list_repository(name.repository, name.revision)
        try:
            choice = choose(name.repository, listing.files, name.tag)
        except ModelNotFoundError as error:
            on_message(str(error))
    config = assistant = None
    preset: Preset = "int8"
    if shape is not None:
        config, assistant, _ = load_shape(shape, None)
        preset = _preset(name, choice)
    stored = None if name.variant is None else name.variant.embeddings
    entries = None if stored is None else unread_embeddings(stored)
    formats = () if config is None else _formats(config, assistant, machine, kv, entries, preset)
    return Described(
        title=model, path=None, name=name, listing=listing, choice=choice, config=config, assistant=assistant,
        drafter=None, formats=formats, here=machine, file_bytes=None,
    )  # fmt: skip


def _preset(name: ModelName, choice: Choice | None) -> Preset:
    """The format in which a model that is not here would be served, by its name."""
    if name.variant is not None:
        return check_preset(name.variant.preset or "int8")
    text = f"{name.repository} {name.tag} {'' if choice is None else choice.main}".lower()
    if "mobile" in text:
        return "mobile"
    return "int4" if "q4_0" in text else "int8"


def _formats(
    config: TargetConfig,
    assistant: AssistantConfig | None,
    machine: Here | None,
    kv: KVFormat,
    entries: Mapping[str, Entry] | None,
    first: Preset,
) -> tuple[Needs, ...]:
    make = partial(_needs, config, assistant, machine, kv, entries)
    return tuple(formats_of(make, first))


def _needs(
    config: TargetConfig,
    assistant: AssistantConfig | None,
    machine: Here | None,
    kv: KVFormat,
    entries: Mapping[str, Entry] | None,
    preset: Preset,
) -> Needs:
    if entries is not None:  # what was trained for devices is served in no other format
        preset = row_scaled_preset(preset, entries.values(), "the checkpoint")
    return needs_of(config, assistant, preset, machine, kv=kv, entries=entries)


def _here(measure: bool, on_message: Callable[[str], None]) -> Here | None:
    try:
        return here() if measure else None
    except BackendError as error:
        on_message(f"no speed is computed: {error}")
        return None
