"""report.html: one page that shows a sweep and fetches nothing."""

from __future__ import annotations

import math
import os
import string
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from toolkit.sweeps import causes, charts, effects, jobs
from toolkit.sweeps.charts import escape
from toolkit.sweeps.effects import show
from toolkit.sweeps.live import in_words
from toolkit.sweeps.table import INDEX, Group, Row, number, varying

MOST_CURVES = 150  # runs that are drawn; the best ones are always among them
MOST_CHARTS = 4
LOG_TAIL = 2500


def write_report(path: str, log_dir: str, rows: list[Row], groups: list[Group], metric: str | None, top_k: int) -> None:
    """Write the page for `rows`, grouped by seed in `groups`; `metric` is a name in their results, or None."""
    script = (jobs.read_json(os.path.join(log_dir, INDEX)) or {}).get("script", "sweep")
    sections = [
        best_section(rows, groups, metric, top_k),
        curves_section(log_dir, rows, groups, metric),
        effects_section(rows, groups, metric),
        failures_section(log_dir, rows),
        jobs_section(rows, metric),
    ]
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "report_template.html")
    with open(folder, encoding="utf-8") as file:
        template = string.Template(file.read())
    page = template.substitute(
        title=escape(f"Sweep of {script}"),
        subtitle=escape(f"{len(rows)} jobs in {os.path.basename(os.path.abspath(log_dir))}, {time.ctime()}"),
        tiles=tiles(rows, groups, metric),
        sections="\n".join(section for section in sections if section),
    )
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(page)
    os.replace(temporary, path)


def tiles(rows: list[Row], groups: list[Group], metric: str | None) -> str:
    """The counts of states, the computing time and the best figure."""
    counts = Counter(row.status.state for row in rows)
    shown = [(state, str(counts[state])) for state in jobs.STATES if counts[state] or state == "done"]
    shown.append(("computing time", in_words(sum(row.status.seconds or 0 for row in rows))))
    if metric and groups and groups[0].values:
        shown.append((f"best {metric.removeprefix('best_')}", f"{groups[0].mean:.4g}"))
    return "".join(
        f'<div class="tile{" bad" if name == "failed" else ""}"><b>{escape(value)}</b>{escape(name)}</div>'
        for name, value in shown
    )


def html_table(heads: Sequence[str], rows: Sequence[Sequence[Any]], classes: Sequence[str] = (), name: str = "") -> str:
    """A sortable table. Floats are shown with 4 digits and sorted by their full value."""
    numeric = [
        bool(rows) and all(_is_number(row[index]) or row[index] in ("", None) for row in rows)
        for index in range(len(heads))
    ]
    mark = [' class="number"' if one else "" for one in numeric]
    head = "".join(
        f'<th{mark[i]} scope="col"><button type="button">{escape(h)}</button></th>' for i, h in enumerate(heads)
    )
    body = []
    for index, row in enumerate(rows):
        cells = "".join(_cell(value, mark[i]) for i, value in enumerate(row))
        body.append(f'<tr class="{classes[index] if classes else ""}">{cells}</tr>')
    identity = f' id="{name}"' if name else ""
    return (
        f'<div class="scroll{" tall" if len(rows) > 30 else ""}"><table class="sortable"{identity}>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any, mark: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return f'<td{mark} data-value=""></td>'
    if isinstance(value, float):
        shown = f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
        return f'<td{mark} data-value="{value!r}">{shown}</td>'
    text = escape(value)
    return f'<td class="long" title="{text}">{text}</td>' if len(text) > 48 else f"<td{mark}>{text}</td>"


def flags_without_seed(rows: list[Row]) -> list[str]:
    return [flag for flag in varying(rows) if flag != "seed"]


def label_of(config: dict[str, Any], flags: Sequence[str]) -> str:
    return ", ".join(f"{flag}={show(config.get(flag))}" for flag in flags) or "the one configuration"


def flag_cells(config: dict[str, Any], flags: Sequence[str]) -> list[Any]:
    """The values of a configuration for a table: numbers stay numbers, so that they are sorted as such."""
    return [config.get(flag) if _is_number(config.get(flag)) else show(config.get(flag)) for flag in flags]


def best_section(rows: list[Row], groups: list[Group], metric: str | None, top_k: int) -> str:
    """The best configurations, mean and spread over their seeds."""
    kept = [group for group in groups if group.values][:top_k]
    if not kept or metric is None:
        return "<h2>Best configurations</h2><p>No job is done yet.</p>"
    flags = flags_without_seed(rows)
    some_miss = any(group.missing for group in kept)
    table = []
    for rank, group in enumerate(kept, start=1):
        missing = [", ".join(map(str, group.missing))] if some_miss else []
        table.append([rank, group.mean, group.sd, len(group.values), *missing, *flag_cells(group.config, flags)])
    heads = ["rank", f"mean {metric}", "sd", "n seeds", *(["missing seeds"] if some_miss else []), *flags]
    note = "Mean and sample standard deviation over seeds; chosen on validation data, so report the test figure apart."
    return f'<h2>Best configurations</h2><p class="soft">{note}</p>{html_table(heads, table, name="best")}'


def curves_section(log_dir: str, rows: list[Row], groups: list[Group], metric: str | None) -> str:
    """One chart for each column of the histories; the best configurations in colour."""
    flags = flags_without_seed(rows)
    colors = {
        label_of(group.config, flags): color
        for group, color in zip([g for g in groups if g.values], charts.COLORS, strict=False)
    }
    ordered = sorted(rows, key=lambda row: label_of(row.config, flags) not in colors)[:MOST_CURVES]
    histories = [(label_of(row.config, flags), jobs.read_history(os.path.join(log_dir, row.name))) for row in ordered]
    names = list(dict.fromkeys(name for _, history in histories for name in history))
    names = [name for name in names if name not in ("epoch", "seconds", "learning_rate")]
    wanted = (metric or "").removeprefix("best_")
    names.sort(key=lambda name: (name != wanted, not name.startswith("val")))
    cards = []
    for name in names[:MOST_CHARTS]:
        lines = [
            charts.Line(
                history.get("epoch") or range(1, len(history[name]) + 1), history[name], colors.get(label), label
            )
            for label, history in histories
            if name in history
        ]
        drawn = charts.curves(lines, "epoch", name)
        cards += [f'<div class="card"><h3>{escape(name)}, {len(lines)} runs</h3>{drawn}</div>'] if drawn else []
    if not cards:
        return ""
    legend = "".join(f'<li><i style="background:{color}"></i>{escape(label)}</li>' for label, color in colors.items())
    grey = " The other runs are grey." if len(groups) > len(colors) else ""
    note = f'<p class="soft">In colour: the best configurations, all their seeds.{grey}</p>'
    return f'<h2>Learning curves</h2>{note}<div class="charts">{"".join(cards)}</div><ul class="legend">{legend}</ul>'


def effects_section(rows: list[Row], groups: list[Group], metric: str | None) -> str:
    """Importance of each hyperparameter as bars, and a chart of each main effect."""
    found = effects.main_effects(rows, metric)
    if not found or metric is None:
        return ""
    bars = "".join(_bar(effect.flag, effect.share) for effect in found)
    chance = effects.seed_share(groups)
    bars += "" if math.isnan(chance) else _bar("(between seeds)", chance, "chance")
    cards = "".join(
        f'<div class="card"><h3>{escape(effect.flag)}: {effect.span:.4g} between its best and worst mean</h3>'
        + charts.levels(
            [level.label for level in effect.levels],
            [level.values for level in effect.levels],
            [level.mean for level in effect.levels],
            effect.flag,
            metric,
        )
        + "</div>"
        for effect in found
    )
    return (
        f'<h2>Which choices mattered</h2><p class="soft">Share of the differences in {escape(metric)} that each flag '
        "explains alone (analysis of variance, corrected for chance). The rest up to 100% is interaction of flags and "
        "chance. In a full grid the shares add up; in a random search or a conditional grid they may overlap.</p>"
        f'<div class="card bars">{bars}</div><p class="soft">Each dot is a job; the line joins the means.</p>'
        f'<div class="charts">{cards}</div>'
    )


def _bar(name: str, share: float, kind: str = "") -> str:
    if math.isnan(share):
        return f'<span class="name">{escape(name)}</span><span class="soft">too few jobs to tell</span><span></span>'
    filled = f'<span class="{kind}" style="width:{100 * share:.1f}%"></span>'
    return f'<span class="name">{escape(name)}</span><div class="bar">{filled}</div><b>{100 * share:.0f}%</b>'


def failures_section(log_dir: str, rows: list[Row]) -> str:
    """What failed, grouped by cause, with the end of one log each."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.status.state == "failed":
            groups.setdefault(row.status.reason, []).append(row)
    if not groups:
        return ""
    parts = []
    for cause, failed in sorted(groups.items(), key=lambda item: -len(item[1])):
        tail = causes.read_tail(os.path.join(log_dir, failed[0].name), LOG_TAIL)
        names = "".join(f"<li>{escape(row.name)}</li>" for row in failed[:20])
        more = f"<li>... and {len(failed) - 20} more</li>" if len(failed) > 20 else ""
        parts.append(
            f"<details><summary><b>{len(failed)}×</b> {escape(cause)}</summary><ul>{names}{more}</ul>"
            f"<p>End of the log of the first:</p><pre>{escape(tail)}</pre></details>"
        )
    return f"<h2>Failures</h2>{''.join(parts)}"


def jobs_section(rows: list[Row], metric: str | None) -> str:
    """Every job, sortable, with a filter."""
    flags = varying(rows)
    metrics = [metric] if metric else []
    metrics += [
        name
        for name in dict.fromkeys(name for row in rows for name in row.metrics)
        if name not in metrics and any(_is_number(row.metrics.get(name)) for row in rows)
    ][:8]
    table = []
    for row in rows:
        figures = [number(row, name) for name in metrics]
        table.append(
            [
                *flag_cells(row.config, flags),
                *figures,
                row.status.state,
                row.status.seconds,
                row.status.attempt,
                row.status.cause,
                row.name,
            ]
        )
    heads = [*flags, *metrics, "status", "run time, s", "attempts", "cause", "job"]
    states = [row.status.state for row in rows]
    box = '<input id="filter" type="search" placeholder="filter, like: cnn failed" aria-label="filter the jobs">'
    return f"<h2>All jobs</h2>{box}{html_table(heads, table, states, 'jobs')}"
