"""report.html: one page that shows a sweep, fetches nothing, and can be sent by mail.

The page holds its data as JSON; its own script (report_template.html) builds tables and heat maps from them and draws
curves with uPlot (toolkit/vendor/uplot, MIT licence).
"""

from __future__ import annotations

import json
import math
import os
import shlex
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from toolkit import effects
from toolkit.sweeps import jobs, table
from toolkit.sweeps.table import Group, Row, number

MOST_CURVES = 150  # runs whose curves are in the page; the best ones are always among them
MOST_LOGS = 30  # failed jobs whose last words are in the page
MOST_METRICS = 6
LOG_TAIL = 2500
NOT_CURVES = ("seconds", "learning_rate")
TEMPLATE = Path(__file__).with_name("report_template.html")
UPLOT = TEMPLATE.parents[1] / "vendor" / "uplot"


def write_report(
    path: str, log_dir: str, rows: list[Row], groups: list[Group], metric: str | None, direction: str = "auto"
) -> None:
    """Write the page for `rows`, grouped by seed in `groups`; `metric` is a name in their results, or None."""
    index = table.read_index(log_dir)
    scripts = sorted({row.status.script for row in rows if row.status.script}) or [index.get("script", "sweep")]
    names = dict.fromkeys(([metric] if metric else []) + [name for row in rows for name in row.metrics])
    metrics = [name for name in names if any(not math.isnan(number(row, name)) for row in rows)][:MOST_METRICS]
    data = {
        "title": f"Sweep of {', '.join(scripts)}",
        "subtitle": f"{len(rows)} jobs in {os.path.basename(os.path.abspath(log_dir))}, {time.ctime()}",
        "metric": metric,
        "low": metric is not None and table.is_better_when_low(metric, direction),
        "flags": [flag for flag in table.varying(rows) if flag != "seed"],
        "origins": table.differing_origins(groups),
        "search": index.get("search", "grid"),
        "sources": sources([row for row in rows if row.status.state == "done"]),
        "notes": notes(rows, metric),
        "metrics": metrics,
        "command": best_command(log_dir, groups),
        "groups": [group_entry(*pair) for pair in zip(groups, table.label_groups(rows, groups), strict=True)],
        "jobs": job_entries(log_dir, rows, groups, metrics),
        "effects": effect_entries(rows, groups, metric),
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    page = page.replace("[[LICENCE]]", (UPLOT / "LICENSE").read_text(encoding="utf-8"))
    page = page.replace("[[LIBRARY_STYLE]]", (UPLOT / "uPlot.min.css").read_text(encoding="utf-8"))
    page = page.replace("[[LIBRARY]]", (UPLOT / "uPlot.iife.min.js").read_text(encoding="utf-8"))
    text = as_json(data)
    # "<" in a name could end the script element that holds the data.
    jobs.write_text(path, page.replace("[[DATA]]", text.replace("<", "\\u003c")))


def as_json(data: Any) -> str:
    """JSON, null for each number that it does not have. Most reports have none of those: they are looked for last."""
    to_text = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str).encode
    try:
        return to_text(data)
    except ValueError:
        return to_text(finite(data))


def finite(value: Any) -> Any:
    """`value` with None for each number in it that JSON does not have (NaN, infinity)."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sources(done: list[Row]) -> dict[str, str]:
    """Where the numbers come from: data set, device and precision of the done jobs, with counts where they differ."""
    found = {}
    for name, key in {"data set": "dataset", "device": "device", "precision": "precision"}.items():
        values = [row.metrics.get(key) or (row.status.device if key == "device" else None) for row in done]
        counts = Counter(str(value) for value in values if value)
        if counts:
            found[name] = ", ".join(f"{v} ({n})" if len(counts) > 1 else v for v, n in counts.items())
    return found


def notes(rows: list[Row], metric: str | None) -> list[str]:
    """What a reader must know before the numbers: results that are none, and why there is no best."""
    if metric is None:
        has_done = any(row.status.state == "done" for row in rows)
        return ["All done jobs' results hold no number." if has_done else "No job is done yet."]
    odd = table.not_finite(rows, metric)
    said = f"{metric} is not a finite number and counts as missing in {len(odd)} jobs: {', '.join(odd[:5])}"
    return [said] if odd else []


def best_command(log_dir: str, groups: list[Group]) -> str:
    """What runs the best configuration again from a shell."""
    done = [row for group in groups[:1] for row in group.rows if group.values and row.status.state == "done"]
    config = jobs.read_json(os.path.join(log_dir, done[0].name, "config.json")) if done else None
    if not isinstance(config, dict) or "argv" not in config:
        return ""
    script = config.get("script", "")
    return shlex.join(["python", *([] if script.endswith(".py") else ["-m"]), script, *config["argv"]])


def group_entry(group: Group, label: str) -> dict[str, Any]:
    """One configuration: its value over the seeds, and what it costs."""
    done = [row.status for row in group.rows if row.status.state == "done"]
    seconds = [status.seconds for status in done if status.seconds]
    return {
        "label": label or "the one configuration",
        "config": group.config,
        "origin": group.origin,
        "mean": group.mean,
        "sd": group.sd,
        "n": len(group.values),
        "missing": ", ".join(map(str, group.missing)),
        "seconds": statistics.fmean(seconds) if seconds else None,
        "memory": max((status.memory_mb or 0 for status in done), default=0) or None,
    }


def job_entries(log_dir: str, rows: list[Row], groups: list[Group], metrics: list[str]) -> list[dict[str, Any]]:
    """One entry per job, in the order of the grid; curves of the best ones, last words of those that failed."""
    flags = table.varying(rows)
    place = {row.name: index for index, group in enumerate(groups) for row in group.rows}
    drawn = set(sorted(place, key=place.get)[:MOST_CURVES])
    troubled = [row.name for row in rows if row.status.state in ("failed", "stopped")][:MOST_LOGS]
    entries = []
    for row in rows:
        status, folder = row.status, os.path.join(log_dir, row.name)
        entry = {
            "name": row.name,
            "group": place[row.name],
            "config": {flag: row.config.get(flag) for flag in flags},
            "metrics": {name: number(row, name) for name in metrics},
            "state": status.state,
            "seconds": status.seconds,
            "memory": status.memory_mb,
            "attempts": status.attempt,
            "why": status.reason if status.cause else status.detail,
            "ended": status.ended,
        }
        if row.name in drawn and status.attempt:
            history = jobs.read_history(folder)
            entry["history"] = {name: values for name, values in history.items() if name not in NOT_CURVES} or None
        if row.name in troubled:
            entry["log"] = jobs.read_tail(folder, LOG_TAIL)
        entries.append(entry)
    return entries


def effect_entries(rows: list[Row], groups: list[Group], metric: str | None) -> list[dict[str, Any]]:
    """What each flag explains of the differences, and the mean at each of its values."""
    found = []
    for effect in effects.main_effects([row.config for row in rows], [number(row, metric) for row in rows]):
        levels = [{"label": n, "mean": mean, "n": len(effect.levels[n])} for n, mean in effect.means.items()]
        found.append({"flag": effect.setting, "share": effect.share, "levels": levels})
    chance = effects.chance_share(group.values for group in groups)
    return found + ([] if math.isnan(chance) else [{"flag": "(between seeds)", "share": chance, "levels": []}])
