"""Draws docs/peers.svg and docs/speed.svg from e2b.json: milliseconds of a pass by rows, and tokens a second without
and with a drafter; each engine on the same shape in one run.

Usage: python benchmarks/peers/chart.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 300, 52, 40, 34
COLOURS = {"geminate": "#1b7f5c", "llama.cpp": "#c4572b", "transformers": "#5566aa"}
LABELS = {"geminate": "Geminate int4", "llama.cpp": "llama.cpp Q4_0", "transformers": "transformers bf16"}


def chart(result: dict[str, dict[str, dict[str, dict[str, float]]]]) -> str:
    """An SVG with one line for each engine; the title and text elements carry the figures for screen readers."""
    engines = result["engines"]
    rows = sorted({int(m) for e in engines.values() for m in e["step_ms"]})
    top = max(ms for e in engines.values() for ms in e["step_ms"].values())

    def x(m: int) -> float:
        return LEFT + (WIDTH - LEFT - 140) * (m - rows[0]) / (rows[-1] - rows[0])

    def y(ms: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * ms / top

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        "<title>Milliseconds of a pass over M rows, Gemma 4 E2B shape, two threads</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18">Milliseconds of a pass over M rows (E2B shape, 2 threads)</text>',
    ]
    for ms in range(0, int(top) + 1, 100):
        parts.append(f'<line x1="{LEFT}" x2="{x(rows[-1])}" y1="{y(ms)}" y2="{y(ms)}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(ms) + 4}" text-anchor="end">{ms}</text>')
    for m in rows:
        parts.append(f'<text x="{x(m)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{m}</text>')
    for name, engine in engines.items():
        points = [(x(int(m)), y(ms)) for m, ms in engine["step_ms"].items()]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{COLOURS[name]}"/>' for a, b in points]
        a, b = points[-1]
        parts.append(f'<text x="{a + 8:.1f}" y="{b + 4:.1f}" fill="{COLOURS[name]}">{LABELS[name]}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def speeds(result: dict[str, Any]) -> str:
    """An SVG with a bar for plain decoding and one for the best draft length, of Geminate and of llama.cpp."""
    ours, theirs = result["end_to_end"]["geminate"]["tokens_per_s"], result["end_to_end"]["llama_server"]["modes"]
    drafted = {int(k): rate for k, rate in ours.items() if k.isdigit()}
    best = max(drafted, key=lambda k: drafted[k])
    other = max((mode for mode in theirs if mode["n_max"]), key=lambda mode: mode["tokens_per_s"])
    plain = next(mode for mode in theirs if not mode["n_max"])
    bars = [
        ("Geminate", "plain", ours["plain"], "geminate"),
        ("", f"drafter, {best} tokens ahead", drafted[best], "geminate"),
        ("llama.cpp", "plain", plain["tokens_per_s"], "llama.cpp"),
        ("", f"drafter, {other['n_max']} tokens ahead", other["tokens_per_s"], "llama.cpp"),
    ]
    percent = f"{result['end_to_end']['acceptance']:.0%}".replace("%", " %")
    about = f"Gemma 4 E2B shape in 4 bits, two processor cores, {percent} of draft tokens accepted"
    height, bar, left = 150, 22, 210
    scale = (WIDTH - left - 60) / max(rate for _, _, rate, _ in bars)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        ' font-family="sans-serif" font-size="13">',
        f"<title>Tokens a second: {about}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="18" fill="#333333">Tokens a second: {about}</text>',
    ]
    for at, (engine, what, rate, colour) in enumerate(bars):
        y = 30 + at * (bar + 6)
        opacity = 0.45 if what == "plain" else 1
        parts.append(f'<text x="10" y="{y + 16}" fill="{COLOURS[colour]}" font-weight="bold">{engine}</text>')
        parts.append(
            f'<text x="{left - 10}" y="{y + 16}" text-anchor="end" fill="#333333" font-size="12">{what}</text>'
        )
        parts.append(
            f'<rect x="{left}" y="{y}" width="{rate * scale:.1f}" height="{bar}" fill="{COLOURS[colour]}"'
            f' fill-opacity="{opacity}"/>'
        )
        parts.append(f'<text x="{left + rate * scale + 6:.1f}" y="{y + 16}" fill="#333333">{rate:.1f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> int:
    """Write the files."""
    result = json.loads((HERE / "e2b.json").read_text())
    for name, drawn in (("peers.svg", chart(result)), ("speed.svg", speeds(result))):
        target = HERE.parents[1] / "docs" / name
        target.write_text(drawn)
        print(f"wrote {target.relative_to(HERE.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
