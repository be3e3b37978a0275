"""Whatever is done to a log is found, and named with its line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geminate.audit import lines as line_format
from geminate.audit.lines import HEAD, canonical, read_line, sealed
from geminate.audit.verify import verify
from geminate.errors import AuditLogError
from support.audit_logs import kinds, verified, write_log

REQUESTS = 9
LINES = REQUESTS + 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return write_log(tmp_path_factory.mktemp("log") / "audit.log", REQUESTS)


def resealed(line: bytes, **changes: Any) -> bytes:
    """A line that somebody has edited and given a hash of its own."""
    record = {k: v for k, v in json.loads(line).items() if k != "hash"} | changes
    return sealed(record, record["seq"], record["prev"])[0]


def test_an_untouched_log_is_intact(whole: list[bytes], tmp_path: Path) -> None:
    report = verified(tmp_path / "a", whole)
    assert report.intact and (report.lines, report.requests) == (LINES, REQUESTS) and not report.gaps
    assert whole[0].startswith(HEAD) and [json.loads(line)["seq"] for line in whole] == list(range(LINES))
    assert report.head == (LINES - 1, json.loads(whole[-1])["hash"])


def test_a_line_can_be_checked_without_this_program(whole: list[bytes]) -> None:
    before = "0" * 64
    for line in whole:
        body, own = line[:-76] + b"}", line[-67:-3].decode()
        assert hashlib.sha256(body).hexdigest() == own and json.loads(line)["prev"] == before
        before = own


@pytest.mark.parametrize(
    ("done", "found"),
    [
        (lambda x: x[:4] + x[5:], [("cut", 5)]),
        (lambda x: x[:4] + x[7:], [("cut", 5)]),
        (lambda x: [*x[:4], x[5], x[4], *x[6:]], [("moved", 6)]),
        (lambda x: [*x[:2], *x[4:8], *x[2:4], *x[8:]], [("moved", 7)]),
        (lambda x: [*x[:5], x[2], *x[5:]], [("duplicated", 6)]),
        (lambda x: [*x[:5], *x[2:4], *x[5:]], [("duplicated", 6)]),
        (lambda x: [*x[:5], b"hello\n", *x[5:]], [("inserted", 6)]),
        (lambda x: [*x[:5], b"\n", *x[5:]], [("inserted", 6)]),
        (lambda x: [*x[:5], resealed(x[4], id="forged"), *x[5:]], [("inserted", 6)]),
        (lambda x: [*x[:5], x[5].replace(b'"r4"', b'"r5"'), *x[6:]], [("edited", 6)]),
        (lambda x: [*x[:5], x[5].replace(b",", b", ", 1), *x[6:]], [("edited", 6)]),
        (lambda x: [*x[:5], x[5][:-1] + b"\r\n", *x[6:]], [("edited", 6)]),
        (lambda x: [*x[:5], b"\0" * 50 + b"\n", *x[6:]], [("edited", 6)]),
        (lambda x: [*x[:5], x[5].replace(b'"r4"', b'"r5"'), x[6].replace(b'"r5"', b'"r0"'), *x[7:]],
         [("edited", 6), ("edited", 7)]),
        (lambda x: [*x[:5], resealed(x[5], id="forged"), *x[6:]], [("broken", 7)]),
        (lambda x: [*x[:5], x[5][:-1], *x[6:]], [("edited", 6), ("cut", 7)]),
        (lambda x: x[1:], [("begin", 1)]),
        (lambda x: x[3:], [("begin", 1)]),
        (lambda x: [x[1], x[0], *x[2:]], [("moved", 2)]),
        (lambda x: [*x[:-1], x[-1][:-20]], [("torn", LINES)]),
        (lambda x: [*x[:-1], x[-1][:-1]], [("torn", LINES)]),
        (lambda x: [*x[:5], x[5].replace(b'"r4"', b'"r5"'), x[3], *x[7:]],
         [("edited", 6), ("duplicated", 7), ("cut", 8)]),
    ],
)  # fmt: skip
def test_what_was_done_is_named(done: Any, found: list[tuple[str, int]], whole: list[bytes], tmp_path: Path) -> None:
    assert kinds(verified(tmp_path / "a", done(whole))) == found


def test_runs_of_lines_are_one_problem(whole: list[bytes], tmp_path: Path) -> None:
    report = verified(tmp_path / "a", [*whole, *whole[:7]])
    [problem] = report.problems
    assert (problem.what, problem.last) == ("duplicated", LINES + 7) and report.found == 1
    assert "lines 12 to 18" in str(problem)


def test_missing_lines_have_their_numbers(whole: list[bytes], tmp_path: Path) -> None:
    report = verified(tmp_path / "a", whole[:4] + whole[7:])
    assert "lines 4 to 6 are missing" in str(report.problems[0])


def test_the_end_is_seen_against_a_known_head_only(whole: list[bytes], tmp_path: Path) -> None:
    heads = [(None, json.loads(whole[-1])["hash"])]
    assert verified(tmp_path / "a", whole[:-3]).intact
    assert kinds(verified(tmp_path / "a", whole[:-3], heads=heads)) == [("head", 0)]
    assert verified(tmp_path / "a", whole, heads=heads).intact
    earlier = [(4, json.loads(whole[4])["hash"])]
    assert verified(tmp_path / "a", whole, heads=earlier).intact


def test_a_history_written_anew_is_seen_against_a_known_head_only(whole: list[bytes], tmp_path: Path) -> None:
    forged, prev = [], "0" * 64
    for line in whole:
        record = {k: v for k, v in json.loads(line).items() if k != "hash"}
        if record.get("id") == "r4":
            record["id"] = "forged"
        text, prev = sealed(record, record["seq"], prev)
        forged.append(text)
    assert verified(tmp_path / "a", forged).intact
    assert not verified(tmp_path / "a", forged, heads=[(None, json.loads(whole[-1])["hash"])]).intact


def test_a_log_without_its_beginning_needs_its_hash(whole: list[bytes], tmp_path: Path) -> None:
    before = json.loads(whole[2])["hash"]
    assert verified(tmp_path / "a", whole[3:], begin=before).intact
    assert not verified(tmp_path / "a", whole[3:], begin=json.loads(whole[1])["hash"]).intact
    assert not verified(tmp_path / "a", whole, begin=before).intact


def test_rotated_files_are_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    write_log(path, 70, audit_file_bytes=4096)
    report = verify(path)
    assert report.intact and report.requests == 70 and len(report.files) > 3
    first, third = map(Path, report.files[1:3])
    kept = first.read_bytes()
    first.unlink()
    [problem] = verify(path).problems
    assert problem.what == "cut" and problem.place is not None and problem.place.file == str(third)
    first.write_bytes(kept)
    # Files that change places.
    first.write_bytes(third.read_bytes())
    third.write_bytes(kept)
    assert {p.what for p in verify(path).problems} == {"moved"}


@pytest.mark.parametrize("text", [b"hello\nworld\n", b"\x89PNG\r\n\x1a\n" + bytes(100), b"{}\n", b"[" * 100_000, b""])
def test_what_is_no_log_is_said_to_be_none(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(text)
    with pytest.raises(AuditLogError, match=r"no audit log|empty"):
        verify(tmp_path / "a")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(AuditLogError, match="there is no audit log"):
        verify(tmp_path / "none")
    with pytest.raises(AuditLogError, match="no regular file"):
        verify(tmp_path)


_EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("byte"), st.integers(0, 10**6), st.integers(1, 255)),
        st.tuples(st.just("drop"), st.integers(0, LINES - 2), st.integers(1, 3)),
        st.tuples(st.just("move"), st.integers(0, LINES - 1), st.integers(0, LINES - 1)),
        st.tuples(st.just("copy"), st.integers(0, LINES - 1), st.integers(0, LINES)),
        st.tuples(st.just("reseal"), st.integers(0, LINES - 2), st.integers(0, 99)),
        st.tuples(st.just("cut bytes"), st.integers(0, 10**6), st.integers(1, 400)),
        st.tuples(st.just("insert"), st.integers(0, 10**6), st.binary(min_size=1, max_size=20)),
    ),
    min_size=1,
    max_size=4,
)


def edited(lines: list[bytes], edits: list[tuple[str, int, Any]]) -> list[bytes]:
    made = list(lines)
    for kind, at, more in edits:
        text = b"".join(made)
        if kind == "byte":
            place = at % len(text)
            text = text[:place] + bytes([text[place] ^ more]) + text[place + 1 :]
        elif kind == "cut bytes":
            place = at % len(text)
            text = text[:place] + text[place + more :]
        elif kind == "insert":
            place = at % len(text)
            text = text[:place] + more + text[place:]
        else:
            at %= len(made)
            if kind == "drop":
                del made[at : at + more]
            elif kind == "move":
                made.insert(more, made.pop(at))
            elif kind == "copy":
                made.insert(more, made[at])
            elif kind == "reseal":
                try:
                    made[at] = resealed(made[at], id=f"forged {more}")
                except (ValueError, KeyError, TypeError):
                    continue
            text = b"".join(made)
        made = text.splitlines(keepends=True)
        if not made:
            break
    return made


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=_EDITS)
def test_random_edits_are_found(edits: list[tuple[str, int, Any]], whole: list[bytes], tmp_path: Path) -> None:
    made = edited(whole, edits)
    head = [(None, json.loads(whole[-1])["hash"])]
    if b"".join(made) == b"".join(whole):
        return
    try:
        report = verified(tmp_path / "a", made, heads=head)
    except AuditLogError:
        return  # nothing of it is a log any more
    assert not report.intact
    if not b"".join(whole).startswith(b"".join(made)):
        # Whatever is not merely shortened is found without a head, unless the last line itself was written anew.
        assert not verified(tmp_path / "a", made).intact or made[:-1] == whole[: len(made) - 1]


def test_every_field_is_covered(whole: list[bytes], tmp_path: Path) -> None:
    for index, line in enumerate(whole):
        for name in json.loads(line):
            body = json.loads(line)
            body[name] = "0" * 64 if name in ("hash", "prev") and body[name] != "0" * 64 else "other"
            own = body.pop("hash")
            text = canonical(body)[:-1] + f',"hash":"{own}"}}\n'.encode()
            assert text != line
            assert not verified(tmp_path / "a", [*whole[:index], text, *whole[index + 1 :]]).intact, (index, name)


def test_a_field_that_the_hash_left_out_would_be_missed(
    whole: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the tests above: with a hash that leaves out ``id`` they find nothing."""

    def partial(data: bytes) -> str:
        body = json.loads(data)
        body.pop("id", None)
        return hashlib.sha256(canonical(body)).hexdigest()

    monkeypatch.setattr(line_format, "digest", partial)
    chained, prev = [], "0" * 64
    for line in whole:
        record = {k: v for k, v in json.loads(line).items() if k != "hash"}
        text, prev = sealed(record, record["seq"], prev)
        chained.append(text)
    assert verified(tmp_path / "a", chained).intact
    chained[5] = chained[5].replace(b'"r4"', b'"r9"')
    assert b'"r9"' in chained[5] and verified(tmp_path / "a", chained).intact


@given(st.dictionaries(st.text(max_size=8), st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8)))  # fmt: skip
def test_any_record_comes_back(record: dict[str, Any]) -> None:
    given = {**record, "type": "request"}
    text, own = sealed(given, 3, "a" * 64)
    line = read_line(text[:-1])
    assert (line.seq, line.prev, line.hash) == (3, "a" * 64, own) and text.count(b"\n") == 1
    assert {k: line.record[k] for k in given if k not in ("seq", "prev")} == {
        k: given[k] for k in given if k not in ("seq", "prev")
    }
