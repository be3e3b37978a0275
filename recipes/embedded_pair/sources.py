"""Readers of the unpacked data packages: each yields documents in Gemma 4's chat format or as plain text.

A document starts with ``<bos>``. A reader takes the directory into which `README.md`'s commands unpacked its
package. Nothing here imports or runs the packages: they are data carriers.
"""

from __future__ import annotations

import ast
import bz2
import json
import lzma
import random
import re
import struct
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROFANE = re.compile(
    r"\b(fuck\w*|shit\w*|bitch\w*|cunt\w*|dick\w*|asshole\w*|porn\w*|sex\w*|nigg\w*|fag\w*|rape\w*|"
    r"penis|vagina|boob\w*|slut\w*|whore\w*|kill yourself)\b",
    re.IGNORECASE,
)
PRIVATE = re.compile(r"https?://|www\.|\S+@\S+\.\S+|\+?\d[\d\-\s().]{7,}\d")


def chat(*turns: str, system: str | None = None) -> str:
    """Alternating user and model turns as one document."""
    parts = ["<bos>"]
    if system:
        parts.append(f"<|turn>system\n{system}<turn|>\n")
    for i, text in enumerate(turns):
        role = "model" if i % 2 else "user"
        parts.append(f"<|turn>{role}\n{text.strip()}<turn|>\n")
    return "".join(parts)


def chitchat(root: Path) -> Iterator[str]:
    """Two-person chats of at least four turns without profanity or private data."""
    data = json.loads(next(root.rglob("dataset.json")).read_text())
    for conversation in data.values():
        turns = [" ".join(m["text"].strip() for m in turn) for turn in conversation["messages"]]
        turns = [t for t in turns if t]
        whole = " ".join(turns)
        if len(turns) < 4 or PROFANE.search(whole) or PRIVATE.search(whole):
            continue
        if len(turns) % 2:
            turns = turns[:-1]
        yield chat(*turns)


def wordnet(root: Path, rng: random.Random, keep: float) -> Iterator[str]:
    """A share ``keep`` of the definitions, as questions and answers."""
    kinds = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
    asks = [
        'What does the word "{}" mean?',
        'What is the meaning of "{}"?',
        'Define "{}".',
        'What does "{}" mean?',
    ]
    for suffix, kind in kinds.items():
        for line in next(root.rglob(f"data.{suffix}")).read_text(encoding="latin-1").splitlines():
            if line.startswith(" ") or "|" not in line:
                continue
            fields, gloss = line.split("|", 1)
            words = fields.split()
            count = int(words[3], 16)
            names = [words[4 + 2 * i].replace("_", " ").split("(")[0] for i in range(count)]
            examples = re.findall(r'"([^"]+)"', gloss)
            meaning = re.sub(r';?\s*"[^"]*"', "", gloss).strip().rstrip(";")
            if rng.random() >= keep or not meaning or len(names[0]) < 3 or names[0][0].isdigit():
                continue
            answer = f'The {kind} "{names[0]}" means: {meaning}.'
            if count > 1:
                answer += " Also: " + ", ".join(names[1:4]) + "."
            if examples:
                answer += f' Example: "{examples[0]}".'
            yield chat(rng.choice(asks).format(names[0]), answer)


def austen(root: Path) -> Iterator[str]:
    """Paragraph groups of the novels, read from R's lazy-load file (XDR serialization)."""
    blob = next(root.rglob("janeaustenr/data/Rdata.rdb")).read_bytes()
    at = 0
    while at < len(blob) - 6:
        piece = _inflate(blob, at)
        if piece is None:
            at += 1
            continue
        text, used = piece
        at += used
        lines = [m.decode("utf-8", "ignore") for m in _xdr_strings(text)]
        paragraphs = [p.replace("\n", " ") for p in "\n".join(lines).split("\n\n")]
        for i in range(0, len(paragraphs), 6):
            document = "\n".join(p.strip() for p in paragraphs[i : i + 6] if p.strip())
            if len(document) > 200:
                yield "<bos>" + document


def _inflate(blob: bytes, at: int) -> tuple[bytes, int] | None:
    size = struct.unpack(">I", blob[at : at + 4])[0]
    if not 1000 < size < 50_000_000:
        return None
    for skip, make in ((4, zlib.decompressobj), (5, bz2.BZ2Decompressor), (5, lzma.LZMADecompressor)):
        try:
            decompressor = make()
            text = decompressor.decompress(blob[at + skip :])
        except Exception:
            continue
        if len(text) == size:
            return text, len(blob) - at - len(decompressor.unused_data)
    return None


def _xdr_strings(data: bytes) -> Iterator[bytes]:
    at = 0
    while (at := data.find(b"\x00\x04\x00\x09", at)) >= 0:
        (size,) = struct.unpack(">i", data[at + 4 : at + 8])
        if 0 <= size < 10_000:
            yield data[at + 8 : at + 8 + size]
            at += 8 + size
        else:
            at += 4


def factbook(root: Path, rng: random.Random) -> Iterator[str]:
    """Country facts as questions, passages with questions, and JSON records."""
    for path in sorted(root.rglob("*/*.json")):
        try:
            data = json.loads(path.read_text())
            name = data["Government"]["Country name"]["conventional short form"]["text"]
        except (KeyError, TypeError, ValueError):
            continue
        if name in ("none", ""):
            continue
        facts: list[tuple[str, str]] = []
        for section in data.values():
            for key, value in section.items():
                text = value.get("text") if isinstance(value, dict) else None
                if isinstance(text, str) and 3 < len(text) < 700:
                    facts.append((key, text.strip()))
        background = data.get("Introduction", {}).get("Background", {}).get("text", "")
        for key, text in facts:
            if key == "Background":
                continue
            yield chat(f"What is the {key.lower()} of {name}?", f"{key} of {name}: {text}")
        if background:
            first = re.split(r"(?<=[.!?])\s", background)[0]
            yield chat(f"Summarize this text in one sentence.\n\n{background}", first)
            yield chat(
                f"Use the passage to answer.\n\nPassage: {background}\n\n"
                "Question: Which country is this passage about, and what happened there?",
                f"The passage is about {name}. {first}",
            )
            yield chat(f"Tell me about {name}.", background)
        for _ in range(3):
            picked = rng.sample(facts, min(5, len(facts)))
            record = {"country": name, **{k.lower().replace(" ", "_"): t[:120] for k, t in picked}}
            keys = ", ".join(list(record)[1:])
            yield chat(
                f"Give a JSON record for {name} with the fields {keys}.",
                "```json\n" + json.dumps(record, indent=2) + "\n```",
            )


def _argument(value: Any) -> str:
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value)


def bfcl(root: Path) -> Iterator[str]:
    """Questions with function declarations; calls in Gemma 4's format where a ground truth stands beside."""
    for path in sorted(root.rglob("BFCL_v4_*.json")):
        if path.parent.name != "data" or "multi_turn" in path.name:
            continue
        answers: dict[str, Any] = {}
        truth = path.parent / "possible_answer" / path.name
        if truth.exists():
            for line in truth.read_text().splitlines():
                item = json.loads(line)
                answers[item["id"]] = item["ground_truth"]
        lines = path.read_text().splitlines()
        if not lines or not lines[0].endswith("}"):
            continue  # not JSON lines
        for line in lines:
            item = json.loads(line)
            turn = item["question"][0]
            question = turn[-1]["content"] if isinstance(turn, list) else str(turn)
            functions = item.get("function") or []
            calls = ""
            for call in answers.get(item["id"], [])[:3]:
                if not isinstance(call, dict):
                    continue
                for name, arguments in call.items():
                    inner = ",".join(f"{k}:{_argument(v[0])}" for k, v in arguments.items() if v and v[0] != "")
                    calls += f"<|tool_call>call:{name}{{{inner}}}<tool_call|>"
            declared = "".join(_declaration(f) for f in functions[:2])
            if calls:
                yield chat(question, calls, system=declared)
            elif functions:
                about = functions[0].get("description", "").strip()
                yield chat(f"What does the function {functions[0]['name']} do?", about)


def _declaration(function: dict[str, Any]) -> str:
    properties = function.get("parameters", {}).get("properties", {})
    inner = ",".join(
        f'{k}:{{description:<|"|>{v.get("description", "")[:80]}<|"|>,type:<|"|>'
        f'{str(v.get("type", "string")).upper()}<|"|>}}'
        for k, v in properties.items()
    )
    return (
        f'<|tool>declaration:{function["name"]}{{description:<|"|>'
        f'{function.get("description", "")[:160]}<|"|>,parameters:{{properties:{{{inner}}},'
        f'type:<|"|>OBJECT<|"|>}}}}<tool|>'
    )


def stdlib(limit_bytes: int) -> Iterator[str]:
    """Functions with docstrings of the running interpreter's standard library, whole and as requests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    total = 0
    for path in sorted(root.rglob("*.py")):
        if any(p in path.parts for p in ("test", "tests", "site-packages", "idlelib", "lib2to3")):
            continue
        try:
            source = path.read_text()
            tree = ast.parse(source)
        except (UnicodeDecodeError, SyntaxError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            code = ast.get_source_segment(source, node)
            doc = ast.get_docstring(node)
            if not code or not doc or not 80 < len(code) < 2200:
                continue
            total += len(code)
            if total > limit_bytes:
                return
            head = code.split('"""')
            if len(head) >= 3 and len(head[0]) < 300:
                prompt = f'{head[0]}"""{head[1]}"""\n'
                yield chat(prompt, code[len(prompt) :].strip("\n") or "pass")
            else:
                yield "<bos>" + code
