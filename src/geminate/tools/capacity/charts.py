"""Small charts as inline SVG; colours are those of the page around them (`html_report`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from geminate.tools.capacity.figures import number

WIDTH, LEFT, RIGHT = 720, 64, 16
TOP, PLOT, BOTTOM = 24, 200, 44  # the name of y stands above the plot
BAR, GAP = 16, 10
LABEL = 300


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a chart: its name and its points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


def bars(title: str, rows: Sequence[tuple[str, str, float]], unit: str, mark: float | None = None) -> str:
    """Horizontal bars.

    Args:
        rows: (label, class of the colour, value).
        mark: a value to draw a line at, such as an objective.
    """
    most = max([value for _, _, value in rows] + [mark or 0.0]) or 1.0
    room = WIDTH - LABEL - 90
    height = TOP + len(rows) * (BAR + GAP) + 8
    parts = [_open(title, height)]
    for at, (label, kind, value) in enumerate(rows):
        y = TOP + at * (BAR + GAP)
        long = max(1.0, value / most * room)
        parts.append(f'<text x="{LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect class="{escape(kind)}" x="{LABEL}" y="{y}" width="{long:.1f}" height="{BAR}" rx="2"/>')
        parts.append(f'<text x="{LABEL + long + 6:.1f}" y="{y + 12}">{number(value)} {escape(unit)}</text>')
    if mark is not None:
        x = LABEL + mark / most * room
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 4}"/>')
    return "".join([*parts, "</svg></div>"])


def lines(title: str, series: Sequence[Series], x_name: str, y_name: str, mark: float | None = None) -> str:
    """Lines over a common pair of axes from 0.

    Args:
        mark: a value of y to draw a line at, such as an objective.
    """
    points = [point for one in series for point in one.points]
    right = _round_up(max((x for x, _ in points), default=1.0))
    top = _round_up(max([y for _, y in points] + [mark or 0.0], default=1.0))
    height = TOP + PLOT + BOTTOM + 18 * len(series)
    parts = [_open(title, height)]

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + x / right * (WIDTH - LEFT - RIGHT), TOP + PLOT * (1 - min(y, top) / top)

    for step in range(5):
        (x, _), (_, y) = place(right * step / 4, 0), place(0, top * step / 4)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(top * step / 4)}</text>')
        parts.append(f'<text x="{x:.1f}" y="{TOP + PLOT + 16}" text-anchor="middle">{_tick(right * step / 4)}</text>')
    if mark is not None:
        _, y = place(0, mark)
        parts.append(f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for at, one in enumerate(series):
        kind = f"s{at % 6}"
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in one.points))
        parts.append(f'<polyline class="{kind}" points="{path}"/>')
        parts += [
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in (place(*p) for p in one.points)
        ]
        y = TOP + PLOT + BOTTOM + 18 * at + 6
        parts.append(f'<circle class="{kind}" cx="{LEFT + 4}" cy="{y}" r="4"/>')
        parts.append(f'<text x="{LEFT + 14}" y="{y + 4}">{escape(one.name)}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{TOP + PLOT + 34}" text-anchor="middle">{escape(x_name)}</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 10}">{escape(y_name)}</text>')
    return "".join([*parts, "</svg></div>"])


def _open(title: str, height: float) -> str:
    return (
        f'<div class="wide"><svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>"
    )


def _tick(value: float) -> str:
    return f"{value:,.6g}"


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 and 10 times a power of ten."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    size = 10.0 ** math.floor(math.log10(value))
    return next(step * size for step in (1, 2, 2.5, 5, 10, 20) if step * size >= value)
