"""report.html: one page that shows a sweep, fetches nothing, and can be sent by mail.

The page holds its data as JSON; its own script (report_template.html) builds tables and heat maps from them and draws
curves with uPlot (toolkit/vendor/uplot, MIT licence).
"""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from collections.abc import Iterable
from typing import Any

from toolkit.sweeps import jobs, table
from toolkit.sweeps.table import Group, Row, number, show

MOST_CURVES = 150  # runs whose curves are in the page; the best ones are always among them
MOST_LOGS = 30  # failed jobs whose last words are in the page
LOG_TAIL = 2500
NOT_CURVES = ("epoch", "seconds", "learning_rate")
HERE = os.path.dirname(os.path.abspath(__file__))
UPLOT = os.path.join(os.path.dirname(HERE), "vendor", "uplot")


def write_report(
    path: str, log_dir: str, rows: list[Row], groups: list[Group], metric: str | None, direction: str = "auto"
) -> None:
    """Write the page for `rows`, grouped by seed in `groups`; `metric` is a name in their results, or None."""
    index = table.read_index(log_dir)
    scripts = sorted({row.status.script for row in rows if row.status.script}) or [index.get("script", "sweep")]
    data = {
        "title": f"Sweep of {', '.join(scripts)}",
        "subtitle": f"{len(rows)} jobs in {os.path.basename(os.path.abspath(log_dir))}, {time.ctime()}",
        "metric": metric,
        "low": metric is not None and table.is_better_when_low(metric, direction),
        "flags": [flag for flag in table.varying(rows) if flag != "seed"],
        "origins": table.differing_origins(groups),
        "search": index.get("search", "grid"),
        "sources": sources(rows),
        "notes": notes(rows, metric),
        "metrics": metric_names(rows, metric),
        "command": best_command(log_dir, groups),
        "groups": group_entries(rows, groups),
        "jobs": job_entries(log_dir, rows, groups, metric),
        "effects": effect_entries(rows, groups, metric),
    }
    # "<" in a name could end the script element that holds the data.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, default=str).replace("<", "\\u003c")
    parts = {
        "LICENCE": read_text(os.path.join(UPLOT, "LICENSE")),
        "LIBRARY_STYLE": read_text(os.path.join(UPLOT, "uPlot.min.css")),
        "LIBRARY": read_text(os.path.join(UPLOT, "uPlot.iife.min.js")),
        "DATA": text,
    }
    page = read_text(os.path.join(HERE, "report_template.html"))
    for name, part in parts.items():
        page = page.replace(f"[[{name}]]", part)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(page)
    os.replace(temporary, path)


def read_text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def finite(value: Any) -> Any:
    """`value`, but None for a number that JSON does not have (NaN, infinity)."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sources(rows: list[Row]) -> dict[str, str]:
    """Where the numbers come from: data set, device and precision of the done jobs, with counts where they differ."""
    found: dict[str, dict[str, int]] = {"data set": {}, "device": {}, "precision": {}}
    for row in rows:
        known = {"data set": "dataset", "device": "device", "precision": "precision"}
        for name, key in known.items():
            value = row.metrics.get(key) or (row.status.device if key == "device" else None)
            if row.status.state == "done" and value:
                found[name][str(value)] = found[name].get(str(value), 0) + 1
    return {name: ", ".join(f"{v} ({n})" if len(c) > 1 else v for v, n in c.items()) for name, c in found.items() if c}


def notes(rows: list[Row], metric: str | None) -> list[str]:
    """What a reader must know before the numbers: results that are none, and why there is no best."""
    odd = table.not_finite(rows, metric)
    said = (
        [f"{metric} is not a finite number and counts as missing in {len(odd)} jobs: {', '.join(odd[:5])}"]
        if odd
        else []
    )
    if metric is None:
        has_done = any(row.status.state == "done" for row in rows)
        said.append("All done jobs' results hold no number." if has_done else "No job is done yet.")
    return said


def metric_names(rows: list[Row], metric: str | None) -> list[str]:
    """The numbers of the results, the metric first."""
    names = dict.fromkeys(([metric] if metric else []) + [name for row in rows for name in row.metrics])
    return [name for name in names if any(not math.isnan(number(row, name)) for row in rows)][:6]


def best_command(log_dir: str, groups: list[Group]) -> str:
    """What runs the best configuration again from a shell."""
    done = [row for group in groups[:1] for row in group.rows if group.values and row.status.state == "done"]
    config = jobs.read_json(os.path.join(log_dir, done[0].name, "config.json")) if done else None
    if not isinstance(config, dict) or "argv" not in config:
        return ""
    script = config.get("script", "")
    return shlex.join(["python", *([] if script.endswith(".py") else ["-m"]), script, *config["argv"]])


def group_entries(rows: list[Row], groups: list[Group]) -> list[dict[str, Any]]:
    """One entry per configuration: its value over the seeds, and what it costs."""
    flags, origins = [flag for flag in table.varying(rows) if flag != "seed"], table.differing_origins(groups)
    entries = []
    for group in groups:
        done = [row.status for row in group.rows if row.status.state == "done"]
        origin = [f"{name}={show(group.origin[name])}" for name in origins]
        words = [f"{flag}={show(group.config.get(flag))}" for flag in flags]
        entries.append(
            {
                "label": ", ".join(origin + words) or "the one configuration",
                "config": {flag: finite(group.config.get(flag)) for flag in flags},
                "origin": group.origin,
                "mean": finite(group.mean),
                "sd": finite(group.sd),
                "n": len(group.values),
                "missing": ", ".join(map(str, group.missing)),
                "seconds": mean(one.seconds for one in done),
                "memory": max((one.memory_mb or 0 for one in done), default=0) or None,
            }
        )
    return entries


def mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def job_entries(log_dir: str, rows: list[Row], groups: list[Group], metric: str | None) -> list[dict[str, Any]]:
    """One entry per job, in the order of the grid; curves of the best ones, last words of those that failed."""
    flags, names = table.varying(rows), metric_names(rows, metric)
    place = {row.name: index for index, group in enumerate(groups) for row in group.rows}
    drawn = set(sorted((row.name for row in rows), key=lambda name: place[name])[:MOST_CURVES])
    entries, logs = [], 0
    for row in rows:
        status, folder = row.status, os.path.join(log_dir, row.name)
        entry = {
            "name": row.name,
            "group": place[row.name],
            "config": {flag: finite(row.config.get(flag)) for flag in flags},
            "metrics": {name: finite(number(row, name)) for name in names},
            "state": status.state,
            "seconds": status.seconds,
            "memory": status.memory_mb,
            "attempts": status.attempt,
            "why": status.reason if status.cause else status.detail or "",
            "started": status.started,
            "ended": status.ended,
        }
        if row.name in drawn and status.attempt:
            history = jobs.read_history(folder)
            shown = {n: v for n, v in history.items() if n == "epoch" or n not in NOT_CURVES}
            entry["history"] = {name: list(map(finite, values)) for name, values in shown.items()}
        if status.state in ("failed", "stopped") and logs < MOST_LOGS:
            logs += 1
            entry["log"] = jobs.read_tail(folder, LOG_TAIL)
        entries.append({name: value for name, value in entry.items() if value not in (None, "", {})})
    return entries


def effect_entries(rows: list[Row], groups: list[Group], metric: str | None) -> list[dict[str, Any]]:
    """What each flag explains of the differences, and the mean at each of its values."""
    found = [
        {
            "flag": effect.flag,
            "share": finite(effect.share),
            "levels": [{"label": one.label, "mean": one.mean, "n": len(one.values)} for one in effect.levels],
        }
        for effect in table.main_effects(rows, metric)
    ]
    chance = table.seed_share(groups)
    return found + ([] if math.isnan(chance) else [{"flag": "(between seeds)", "share": chance, "levels": []}])
