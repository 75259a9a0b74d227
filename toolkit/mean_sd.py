"""Mean ± sample standard deviation over seeds, as text, and Markdown tables: how every score is reported."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for the spread of a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def mean_sd_n(values: Sequence[float], digits: int = 4) -> str:
    """'0.9120 ± 0.0040 (n=3)'; without a spread for one value, '-' for none."""
    return f"{mean_sd(values, digits)} (n={len(values)})" if values else "-"


def mean_sd(values: Sequence[float], digits: int = 4) -> str:
    """'0.9120 ± 0.0040'; the value alone for a single one, '-' for none."""
    if not values:
        return "-"
    mean, sd = mean_and_sd(values)
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
