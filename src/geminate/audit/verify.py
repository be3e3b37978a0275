"""Verifies the chain of an audit log and names what was done to it: which line, and what happened there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from geminate.audit.files import files_of
from geminate.audit.lines import ORIGIN, DamagedLineError, Line, digest, is_hash, read_line
from geminate.errors import AuditLogError, ParameterError

MAX_LINE = 256 << 20  # bytes; a longer one is no line of a log
MAX_NAMED = 1000  # problems and gaps that a report lists
What = Literal["edited", "inserted", "duplicated", "moved", "cut", "broken", "torn", "begin", "head"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A line of a file; lines count from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"


@dataclass(kw_only=True, slots=True)
class Problem:
    """Something that no log has which is as it was written.

    Attributes:
        place: where, or None of what is nowhere in the log. last: the last line of those alike that follow.
        what: the kind. why: what is known, as a sentence.
    """

    what: What
    why: str
    place: Place | None = None
    last: int = 0

    def __str__(self) -> str:
        if self.place is None:
            return self.why
        span = f"{self.place.file}, lines {self.place.line} to {self.last}" if self.last else str(self.place)
        return f"{span}: {self.what}: {self.why}"


@dataclass(kw_only=True)
class Report:
    """What a verification found.

    Attributes:
        files: of the log, oldest first. lines, requests: valid lines, and those of requests.
        problems: at most `MAX_NAMED` of ``found``. gaps: what the log itself says is missing, by the place of its line.
        begin: ``prev`` of the first line. head: number and hash of the last line.
    """

    files: list[str]
    lines: int = 0
    requests: int = 0
    found: int = 0
    problems: list[Problem] = field(default_factory=list)
    gaps: list[tuple[Place, dict[str, Any]]] = field(default_factory=list)
    begin: str = ORIGIN
    head: tuple[int, str] | None = None

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return self.found == 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "intact": self.intact,
            "files": self.files,
            "lines": self.lines,
            "requests": self.requests,
            "problems": [{**asdict(problem), "message": str(problem)} for problem in self.problems],
            "problem_count": self.found,
            "gaps": [{**asdict(place), **record} for place, record in self.gaps],
            "begin": self.begin,
            "head": None if self.head is None else {"seq": self.head[0], "hash": self.head[1]},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RawLine:
    """A line as it stands in a file, without its line end.

    Attributes:
        line: None where it is damaged. why: what is wrong then. ended: whether it has a line end.
    """

    place: Place
    raw: bytes
    line: Line | None
    why: str = ""
    ended: bool = True


def read_log(path: Path, on_bytes: Callable[[int], None] = lambda n: None) -> Iterator[RawLine]:
    """All lines of a log, rotated files first.

    Args:
        on_bytes: called with the bytes of every line that was read.

    Raises:
        AuditLogError: there is none, or a file cannot be read.
    """
    for file in files_of(path):
        try:
            if not file.is_file():
                raise AuditLogError(f"{file} is no regular file, so it is no audit log")
            with file.open("rb") as stream:
                number = 0
                while raw := stream.readline(MAX_LINE):
                    number += 1
                    on_bytes(len(raw))
                    yield _raw_line(Place(file=str(file), line=number), raw)
        except OSError as error:
            raise AuditLogError(f"cannot read the audit log {file}: {error.strerror}") from None


def _raw_line(place: Place, raw: bytes) -> RawLine:
    text = raw.removesuffix(b"\n")
    line, why = None, ""
    try:
        line = read_line(text)
    except DamagedLineError as error:
        why = str(error)
    return RawLine(place=place, raw=text, line=line, why=why, ended=len(text) < len(raw))


class _Chain:
    """Follows the chain line by line."""

    def __init__(self, report: Report, begin: str | None) -> None:
        self.report = report
        self.seen: dict[bytes, Place] = {}
        self._begin = begin
        self._expected = 0
        self._prev: str | None = None if begin else ORIGIN  # None: the line before is damaged, so nobody knows
        self._first = True
        self._damaged: list[RawLine] = []
        self._missing: list[tuple[int, int, Place]] = []

    def take(self, raw: RawLine) -> None:
        """The next line."""
        if raw.line is None:
            self._damaged.append(raw)
            return
        line = raw.line
        if self._damaged:
            self._judge_damaged(line)
        self.report.lines += 1
        self.report.requests += line.type == "request"
        key = bytes.fromhex(line.hash)
        if key in self.seen:
            self._problem("duplicated", f"the same line stands in {self.seen[key]}", raw.place)
            return
        self.seen[key] = raw.place
        if self._first:
            self._begins(line)
        if line.seq < self._expected:
            self._out_of_place(line, raw.place)
            return
        if line.seq > self._expected:
            self._missing.append((self._expected, line.seq - 1, raw.place))
        if self._prev is not None and line.prev != self._prev:
            if line.seq == self._expected:
                why = "it does not follow the line before: one of the two was written anew, with a hash of its own"
                self._problem("broken", why, raw.place)
        elif self._prev is not None and line.seq > self._expected:
            self._problem("broken", "it names the line before, but has the number of a later one", raw.place)
        if line.type == "gap" and len(self.report.gaps) < MAX_NAMED:
            self.report.gaps.append((raw.place, {k: v for k, v in line.record.items() if k not in ("prev", "hash")}))
        if not raw.ended:
            self._problem("torn", "its line end is missing", raw.place)
        self._go_on(line)

    def _begins(self, line: Line) -> None:
        self._first = False
        self.report.begin = line.prev
        if self._begin is not None:
            if line.prev != self._begin:
                self._problem("begin", "the log does not begin behind the line that --begin names")
            self._expected, self._prev = line.seq, line.prev

    def _go_on(self, line: Line) -> None:
        self._expected, self._prev = line.seq + 1, line.hash
        self.report.head = (line.seq, line.hash)

    def _out_of_place(self, line: Line, place: Place) -> None:
        for index, (low, high, before) in enumerate(self._missing):
            if low <= line.seq <= high:
                parts = [(low, line.seq - 1, before), (line.seq + 1, high, before)]
                self._missing[index : index + 1] = [part for part in parts if part[0] <= part[1]]
                self._problem("moved", f"its place is before {before}", place)
                return
        self._problem("inserted", "it has the number of another line of this log", place)

    def _judge_damaged(self, line: Line) -> None:
        """What damaged lines are, from the valid one behind them: torn by a crash, put in, or edited."""
        damaged, self._damaged = self._damaged, []
        follows = line.seq == self._expected and (self._prev is None or line.prev == self._prev)
        torn = damaged[0]
        if follows and line.type == "gap" and line.record.get("why") == "torn":
            if line.record.get("sha256") == digest(torn.raw) and line.record.get("bytes") == len(torn.raw):
                damaged = damaged[1:]
        if follows:
            for raw in damaged:
                self._problem("inserted", f"the lines before and behind it belong together; {raw.why}", raw.place)
            return
        for raw in damaged:
            self._problem("edited", raw.why, raw.place)
        most = self._expected + len(damaged)
        self._expected = line.seq if self._expected <= line.seq <= most else most
        self._prev, self._first = None, False

    def end(self) -> None:
        """Behind the last line."""
        for raw in self._damaged:
            if raw is self._damaged[-1] and not raw.ended:
                why = f"its end is missing ({len(raw.raw):,} bytes): a crash, or it is being written now"
                self._problem("torn", why, raw.place)
            else:
                self._problem("edited", raw.why, raw.place)
        for low, high, before in self._missing:
            lines = f"line {low} is" if low == high else f"lines {low} to {high} are"
            if low == 0:
                why = f"{lines} missing at the beginning of the log; --begin HASH accepts that"
                self._problem("begin", why, before)
            else:
                self._problem("cut", f"{lines} missing before this one, by their numbers in the log", before)

    def _problem(self, what: What, why: str, place: Place | None = None) -> None:
        problems = self.report.problems
        if place is not None and problems and (near := problems[-1].place) is not None:
            last = problems[-1].last or near.line
            if (problems[-1].what, near.file, last + 1) == (what, place.file, place.line) and what in _RUNS:
                problems[-1].last = place.line
                return
        self.report.found += 1
        if len(problems) < MAX_NAMED:
            problems.append(Problem(what=what, why=why, place=place))


_RUNS = ("moved", "duplicated", "inserted")  # several in a row are one problem


def verify(
    path: Path,
    *,
    heads: Sequence[tuple[int | None, str]] = (),
    begin: str | None = None,
    on_line: Callable[[Line], None] = lambda line: None,
    on_bytes: Callable[[int], None] = lambda n: None,
) -> Report:
    """Follow the chain of a log through all of its files.

    Args:
        heads: numbers (None: unknown) and hashes of lines that were the last one at some time. Without one, lines that
            are missing at the end cannot be noticed.
        begin: the hash that the first line follows, of a log whose oldest files were removed.
        on_line: called with every valid line. on_bytes: called with the bytes of every line.

    Raises:
        AuditLogError: there is no log, it cannot be read, or no line of it is one of an audit log.
    """
    report = Report(files=[str(file) for file in files_of(path)])
    chain = _Chain(report, begin)
    empty = True
    for raw in read_log(path, on_bytes):
        empty = False
        chain.take(raw)
        if raw.line is not None:
            on_line(raw.line)
    if report.lines == 0:
        raise AuditLogError(f"{path} is {'empty' if empty else 'no audit log: no line of it is one'}")
    chain.end()
    for seq, known in heads:
        if bytes.fromhex(known) not in chain.seen:
            name = known if seq is None else f"{known} (line {seq})"
            why = f"the known head {name} is not in this log: its end was cut off, or it was written anew"
            report.found += 1
            report.problems.append(Problem(what="head", why=why))
    return report


def check_hash(text: str, name: str) -> str:
    """A hash that somebody typed.

    Raises:
        ParameterError: it is none.
    """
    made = text.strip().lower()
    if not is_hash(made):
        raise ParameterError(f"{name} must be a SHA-256 of 64 hexadecimal digits, not {text[:100]!r}")
    return made
