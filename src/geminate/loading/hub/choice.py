"""Which files of a repository make a model, by their names: weights, split GGUF files, drafters, what is left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from geminate.errors import ModelNotFoundError

TEXT_SIDE = ("*.json", "*.jinja", "tokenizer*")
USUAL = ("Q4_K_M", "UD-Q4_K_M", "UD-Q4_K_XL", "Q4_0", "Q8_0")
"""What a GGUF repository's name alone means, best first; llama.cpp's and Ollama's choice is the first one too."""
# Drafters are never kept below int8, so Q8_0 loses nothing and is the smallest file that does not.
PRECISIONS = ("Q8_0", "", "BF16", "F16", "F32")
FOLDERS = ("MTP/", "assistant/", "drafter/")
_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4(?:_MOE)?|BF16|F16|FP16|F32))(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)", re.IGNORECASE)
_DRAFTER = re.compile(r"(?:^|[-_. ])(?:mtp|assistant|drafter|draft)(?:[-_. ]|$)", re.IGNORECASE)
_OTHER = ("mmproj", "imatrix")
_LISTED = 24


class AmbiguousNameError(ModelNotFoundError):
    """A name that may mean any of several models of a repository."""


class MissingPartsError(ModelNotFoundError):
    """A split file of which parts are not there."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        path: inside the repository. nbytes: None where the hub does not say.
        sha256: of files in large-file storage; None for the others.
    """

    path: str
    nbytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class GgufGroup:
    """A GGUF model in one or several files.

    Attributes:
        name: path of the file, or of the first part. files: all parts in order.
        expected: how many parts there must be. quantization: as the name has it; "" for none.
    """

    name: str
    files: tuple[RemoteFile, ...]
    expected: int
    quantization: str

    @property
    def nbytes(self) -> int | None:
        """Bytes of all parts."""
        sizes = [file.nbytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What to download.

    Attributes:
        files: of the target. main: the GGUF file, or the first of its parts; "" for the whole directory.
        drafter: files of a drafter in the same repository. drafter_main: its GGUF file, its folder, or "" for none.
        note: one line for users where the name left a choice.
    """

    files: tuple[RemoteFile, ...]
    main: str
    drafter: tuple[RemoteFile, ...] = ()
    drafter_main: str = ""
    note: str = ""


def quantization(path: str) -> str:
    """What a file's name says of its quantization, such as ``UD-Q4_K_XL``; "" for nothing."""
    found = _QUANTIZATION.findall(_SPLIT.sub("", path.rpartition("/")[2]).removesuffix(".gguf"))
    return str(found[-1]).upper() if found else ""


def parts_of(path: str) -> list[str]:
    """The names of all parts of a split GGUF file by that of any; the name itself for a whole file."""
    found = _SPLIT.search(path)
    if found is None:
        return [path]
    return [f"{path[: found.start()]}-{at:05}-of-{found[2]}{path[found.end() :]}" for at in range(1, int(found[2]) + 1)]


def is_drafter_name(path: str) -> bool:
    """Whether a GGUF file's name or folder says that it is a drafter."""
    folder, _, name = path.rpartition("/")
    return bool(_DRAFTER.search(name.removesuffix(".gguf")) or _DRAFTER.search(folder.rpartition("/")[2]))


def gguf_groups(files: Iterable[RemoteFile]) -> list[GgufGroup]:
    """The GGUF models of a repository; vision projectors and importance matrices are left out."""
    found: dict[str, dict[str, RemoteFile]] = {}
    for file in sorted(files, key=lambda one: one.path):
        name = file.path.rpartition("/")[2].lower()
        if name.endswith(".gguf") and not any(word in name for word in _OTHER):
            found.setdefault(parts_of(file.path)[0], {})[file.path] = file
    groups = []
    for first, parts in found.items():
        names = parts_of(first)
        there = tuple(parts[name] for name in names if name in parts)
        groups.append(GgufGroup(name=first, files=there, expected=len(names), quantization=quantization(first)))
    return groups


def choose(where: str, files: Sequence[RemoteFile], tag: str = "") -> Choice:
    """The files of a model.

    Args:
        where: the repository, for messages. tag: a quantization or a path; "" for none.

    Raises:
        ModelNotFoundError: no such file, or no model. MissingPartsError: a split file that is not whole.
        AmbiguousNameError: one of several that the name does not choose.
    """
    groups = gguf_groups(files)
    targets = [group for group in groups if not is_drafter_name(group.name)]
    directory = _directory(files)
    if directory and not tag:
        drafter = _inner_drafter(files)
        return Choice(files=directory, main="", drafter=drafter, drafter_main=_folder(drafter))
    if not groups:
        what = "no safetensors weights with a config.json, and no GGUF file" if not tag else "no GGUF files"
        raise ModelNotFoundError(f"{where} holds {what}: it is no model that can be loaded")
    group, note = _target(where, targets or groups, tag, groups)
    if len(group.files) < group.expected:
        raise MissingPartsError(
            f"{where} lacks {group.expected - len(group.files)} of the {group.expected} parts of {group.name}"
        )
    drafter_group = None if is_drafter_name(group.name) else best_drafter(groups, group.name)
    return Choice(
        files=group.files,
        main=group.name,
        drafter=() if drafter_group is None else drafter_group.files,
        drafter_main="" if drafter_group is None else drafter_group.name,
        note=note,
    )


def best_drafter(groups: Iterable[GgufGroup], target: str) -> GgufGroup | None:
    """The drafter among GGUF files: named most like the target, then the smallest precision that loses nothing."""
    drafters = [group for group in groups if is_drafter_name(group.name) and len(group.files) == group.expected]
    return min(drafters, key=lambda group: drafter_rank(group.name, target), default=None)


def drafter_rank(name: str, target: str) -> tuple[int, int, int, str]:
    """Sorts drafters of a target by their names, best first."""
    precision = quantization(name)
    place = PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)
    return -len(words(name) & words(target)), place, name.count("/"), name


def words(path: str) -> set[str]:
    """The words of a file's name without those that say how it is quantized or that it is a drafter."""
    name = _SPLIT.sub("", path.rpartition("/")[2]).removesuffix(".gguf")
    bare = _QUANTIZATION.sub("", name).lower()
    return {word for word in re.split(r"[-_. ]+", bare) if word not in ("", "mtp", "assistant", "gguf", "ud")}


def _target(where: str, targets: Sequence[GgufGroup], tag: str, groups: Sequence[GgufGroup]) -> tuple[GgufGroup, str]:
    """The group that a tag means, and what to say of the choice."""
    if tag:
        return _tagged(where, targets, tag, groups), ""
    if len(targets) == 1:
        return targets[0], ""
    for wanted in USUAL:
        fitting = [group for group in targets if group.quantization == wanted]
        if len(fitting) == 1:
            return fitting[0], f"{where} has {len(targets)} GGUF models; took {wanted}. {_variants(where, targets)}"
    raise AmbiguousNameError(f"{where} has {len(targets)} GGUF models: name one. {_variants(where, targets)}")


def _tagged(where: str, targets: Sequence[GgufGroup], tag: str, groups: Sequence[GgufGroup]) -> GgufGroup:
    low = tag.lower()
    if low.endswith(".gguf"):
        first = parts_of(low)[0]
        fitting = [group for group in groups if first in (group.name.lower(), group.name.lower().rpartition("/")[2])]
    else:
        fitting = [group for group in targets if group.quantization.lower() == low]
        fitting = fitting or [group for group in targets if group.quantization.lower() == f"ud-{low}"]
        # Names that put more into the tag, such as Q4_K_M-imat or qat-UD-Q4_K_XL.
        fitting = fitting or [group for group in targets if re.search(rf"[-_.]{re.escape(low)}\W", group.name.lower())]
    if not fitting:
        raise ModelNotFoundError(f"{where} has no file {tag}. {_variants(where, targets)}")
    if len(fitting) > 1:
        names = ", ".join(group.name for group in fitting[:_LISTED])
        raise AmbiguousNameError(f"{where}:{tag} may be any of {names}: name one, as {where}:{fitting[0].name}")
    return fitting[0]


def _variants(where: str, groups: Sequence[GgufGroup]) -> str:
    named = [group.quantization or group.name for group in groups]
    known = [name for name in dict.fromkeys(named) if named.count(name) == 1 or name.endswith(".gguf")]
    shown = ", ".join((known or [group.name for group in groups])[:_LISTED])
    return f"There are: {shown} (as {where}:{(known or [groups[0].name])[0]})"


def _directory(files: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The files of a model directory; () where there is none."""
    top = [file for file in files if "/" not in file.path]
    weights = [file for file in top if file.path.endswith(".safetensors")]
    if not weights or not any(file.path == "config.json" for file in top):
        return ()
    side = [file for file in top if any(fnmatchcase(file.path, pattern) for pattern in TEXT_SIDE)]
    return tuple(dict.fromkeys([*side, *weights]))


def _inner_drafter(files: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    """A drafter in a folder of a model directory."""
    for folder in FOLDERS[1:]:
        inside = [file for file in files if file.path.startswith(folder) and file.path.count("/") == 1]
        bare = [RemoteFile(path=file.path.removeprefix(folder)) for file in inside]
        wanted = {folder + file.path for file in _directory(bare)}
        if wanted:
            return tuple(file for file in inside if file.path in wanted)
    return ()


def _folder(files: Sequence[RemoteFile]) -> str:
    return files[0].path.partition("/")[0] if files else ""
