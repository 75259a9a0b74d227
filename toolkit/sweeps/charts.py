"""Small charts as SVG text, for a page that fetches nothing: learning curves, main effects, bars."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 270  # of the drawing; the page scales it, and 12 px stay legible down to 330 px
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 12, 40
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#5f6b00")  # colour-blind safe


@dataclass
class Line:
    """A curve: y over x; without a colour it is drawn as grey background."""

    xs: Sequence[float]
    ys: Sequence[float]
    color: str | None
    label: str


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between `low` and `high`: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


class Axes:
    """Maps data to the drawing and draws frame, ticks and labels."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], x_label: str, y_label: str) -> None:
        self.x_low, self.x_high = min(xs), max(xs)
        low, high = min(ys), max(ys)
        margin = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
        self.y_low, self.y_high = low - margin, high + margin
        self.x_label, self.y_label = x_label, y_label

    def x(self, value: float) -> float:
        span = self.x_high - self.x_low
        part = (value - self.x_low) / span if span else 0.5
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)

    def frame(self, x_ticks: list[tuple[float, str]]) -> str:
        """Grid lines, tick labels and axis labels."""
        parts = []
        for value in ticks(self.y_low, self.y_high):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        for place, label in x_ticks:
            parts.append(
                f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(label)}</text>'
            )
        middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(self.x_label)}</text>')
        y = TOP + (HEIGHT - TOP - BOTTOM) / 2
        turned = f'transform="rotate(-90 12 {y})" text-anchor="middle"'
        parts.append(f'<text x="12" y="{y}" {turned}>{escape(self.y_label)}</text>')
        return "".join(parts)


def curves(lines: list[Line], x_label: str, y_label: str) -> str:
    """Learning curves; coloured lines lie over the grey ones. Empty text if there is nothing to draw."""
    points = [(x, y) for line in lines for x, y in zip(line.xs, line.ys, strict=False) if math.isfinite(y)]
    if not points:
        return ""
    axes = Axes([x for x, _ in points], [y for _, y in points], x_label, y_label)
    shown = [value for value in ticks(axes.x_low, axes.x_high, 6) if value == int(value)]
    body = axes.frame([(axes.x(value), f"{value:g}") for value in shown])
    for line in sorted(lines, key=lambda line: line.color is not None):
        path = [f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in zip(line.xs, line.ys, strict=False) if math.isfinite(y)]
        style = f'stroke="{line.color}" stroke-width="2"' if line.color else 'stroke="#b5bac4" stroke-width="1"'
        title = f"<title>{escape(line.label)}</title>"
        body += f'<polyline fill="none" {style} points="{" ".join(path)}">{title}</polyline>'
        if line.color and path:
            x, y = path[-1].split(",")
            body += f'<circle cx="{x}" cy="{y}" r="3" fill="{line.color}">{title}</circle>'
    return svg(body, f"{y_label} over {x_label}")


def levels(
    labels: Sequence[str], groups: Sequence[Sequence[float]], means: Sequence[float], flag: str, metric: str
) -> str:
    """A main effect: every job as a dot over the value that it has, the means as a line."""
    count = len(labels)
    axes = Axes([-0.5, count - 0.5], [value for group in groups for value in group], flag, metric)
    longest = max(4, 62 // count)
    cut = [label if len(label) <= longest else label[: longest - 1] + "…" for label in labels]
    body = axes.frame([(axes.x(index), label) for index, label in enumerate(cut)])
    for index, group in enumerate(groups):
        for value in group[:200]:
            body += f'<circle class="dot" cx="{axes.x(index):.1f}" cy="{axes.y(value):.1f}" r="3"/>'
    path = " ".join(f"{axes.x(index):.1f},{axes.y(mean):.1f}" for index, mean in enumerate(means))
    body += f'<polyline class="mean" points="{path}"/>'
    for index, mean in enumerate(means):
        title = f"<title>{escape(labels[index])}: mean {mean:.4g}, n={len(groups[index])}</title>"
        body += f'<circle class="mark" cx="{axes.x(index):.1f}" cy="{axes.y(mean):.1f}" r="5">{title}</circle>'
    return svg(body, f"{metric} for each value of {flag}")


def svg(body: str, title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'


def escape(text: object) -> str:
    return html.escape(str(text), quote=True)
