"""Names of models on the hub: a catalogue name, a hub id, one of its GGUF files, or the address of any of these."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from geminate.loading.hub.catalogue import KnownModel, Variant, catalogue

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
MAIN = "main"
_SITE = re.compile(r"(?:https?://(?:www\.)?)?(?:hf\.co|huggingface\.co)/|hf://", re.IGNORECASE)
_NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<tag>[\w./-]+))?")
_FILE = re.compile(r"(?P<repository>[^/]+/[^/]+)/(?:resolve|blob|tree)/(?P<revision>[^/]+)(?:/(?P<tag>.+))?")
_VARIANT = re.compile(r"-qat-(?:mobile-(?:transformers|ct)|q4_0-gguf|q4_0-unquantized|w4a16-ct)$|-gguf$", re.IGNORECASE)
_QAT = "-qat-q4_0-unquantized-assistant"  # the drafter of the QAT weights of a size, behind its name
_SIZE = re.compile(r"gemma-4-(E2B|E4B|12B|26B-A4B|31B)(?=[-_.]|$)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """A model on the hub.

    Attributes:
        text: as the user named it, for messages and commands.
        repository: ``owner/name``. revision: branch, tag or commit.
        tag: which of a repository's GGUF files: a quantization such as ``Q4_K_M``, or a path; "" for none.
        known, variant: of the catalogue; None for other names. chosen: whether the user named the variant.
    """

    text: str
    repository: str
    revision: str = MAIN
    tag: str = ""
    known: KnownModel | None = None
    variant: Variant | None = None
    chosen: bool = False

    @property
    def short(self) -> str:
        """Its shortest name: as the user named one of the catalogue, else the hub id with what chooses a file."""
        if self.known is not None:
            return self.text
        revision = "" if self.revision == MAIN else f"@{self.revision}"
        return f"{self.repository}{revision}" + (f":{self.tag}" if self.tag else "")

    @property
    def command(self) -> str:
        """The command that downloads it."""
        return f"geminate pull {self.short}"


def parse_name(text: str) -> ModelName | None:
    """The model that a text names; None if it is no name of a model on the hub. Nothing is looked up."""
    bare = _SITE.sub("", text.strip(), count=1).split("?")[0].rstrip("/")
    known = known_name(bare)
    if known is not None:
        return known
    found = _FILE.fullmatch(bare) if bare != text.strip() else None
    found = found or _NAME.fullmatch(bare)
    if found is None or (bare.lower().endswith(".gguf") and not found["tag"]):
        return None
    return ModelName(
        text=text,
        repository=found["repository"],
        revision=found["revision"] or MAIN,
        tag=found["tag"] or "",
    )


def known_name(text: str) -> ModelName | None:
    """A name of the catalogue, with or without ``:VARIANT``; upper and lower case are the same."""
    base, colon, tag = text.partition(":")
    for model in catalogue():
        if model.name.lower() != base.lower() or (colon and not tag):
            continue
        for variant in model.variants:
            if variant.name.lower() == (tag or model.default).lower():
                return ModelName(
                    text=text,
                    repository=variant.repository,
                    tag=variant.files[0] if variant.is_gguf else "",
                    known=model,
                    variant=variant,
                    chosen=bool(tag),
                )
    return None


def suggestions(text: str) -> list[str]:
    """Names of the catalogue that a text may have meant, nearest first; of a known model's unknown variant, all of its
    variants."""
    base, _, tag = text.partition(":")
    for model in catalogue():
        if tag and model.name.lower() == base.lower():
            return [f"{model.name}:{variant.name}" for variant in model.variants]
    size = re.search(r"(e2b|e4b|12b|26b|31b)", text.lower())
    if size is not None and "gemma" in text.lower():
        return [model.name for model in catalogue() if size[1] in model.name.lower()]
    names = {model.name.lower(): model.name for model in catalogue()}
    near = difflib.get_close_matches(base.lower(), names, n=3, cutoff=0.6)
    return [names[name] for name in near]


def drafter_repositories(repository: str, bases: Iterable[str] = ()) -> list[str]:
    """Repositories that may hold the drafter of a model, best first.

    Args:
        bases: hub ids that the model says it was made from.
    """
    found: dict[str, None] = {}
    owner = repository.partition("/")[0]
    for name in (repository, *bases):
        found.update(dict.fromkeys(drafter_names(name)))
    size = _SIZE.search(repository)
    if size is not None and owner != "google":
        published = f"google/gemma-4-{_spelled(size[1])}-it"
        names = [published + _QAT] if "qat" in repository.lower() else []
        found.update(dict.fromkeys([*names, f"{published}-assistant"]))
    return list(found)


def drafter_names(target: str) -> list[str]:
    """Names of drafters of a target by its own name, best first.

    Google publishes one drafter for the plain weights of a size and one for its QAT weights; files for devices have
    none of their own, and that of the plain weights fits them.
    """
    plain = _VARIANT.sub("", target)
    names = [] if target.lower().endswith("-gguf") else [f"{target}-assistant"]
    if plain != target and "-qat-" in target and "-mobile-" not in target:
        names.append(plain + _QAT)
    return list(dict.fromkeys([*names, f"{plain}-assistant"]))


def shape_of(name: str) -> str | None:
    """The published shape that a repository's or file's name says, such as ``gemma-4-E2B``; None if it says none."""
    found = _SIZE.search(name)
    return None if found is None else f"gemma-4-{_spelled(found[1])}"


def _spelled(size: str) -> str:
    return size.upper()


def catalogue_names() -> Iterator[str]:
    """Every name of the catalogue with its variant."""
    for model in catalogue():
        for variant in model.variants:
            yield f"{model.name}:{variant.name}"
