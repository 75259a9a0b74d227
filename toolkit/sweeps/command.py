"""What `python dispatcher.py` does, step by step: read the grid, check it, run it, report."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from toolkit import effects
from toolkit.errors import UserError, check_choice
from toolkit.runs import writable_folder
from toolkit.sweeps import grid, table
from toolkit.sweeps.jobs import Job, Status
from toolkit.sweeps.local import Engine, LocalEngine, describe_devices, find_devices
from toolkit.sweeps.report import write_report
from toolkit.sweeps.script import Probe, check_points, find_script, probe
from toolkit.sweeps.search import Pruner, Search, Searcher
from toolkit.sweeps.slurm import SlurmEngine, SlurmSettings
from toolkit.sweeps.sweep import Progress, Rules, Sweep

if sys.stdout.isatty():  # rich takes 40 ms to import, and a pipe has no use for it
    from rich.console import Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.text import Text
else:
    Live = None

EXIT_SOME_FAILED, EXIT_INTERRUPTED = 1, 130
SHOWN_IN_DRY_RUN = 1000
PLAIN_EVERY_S = 30
SHOWN_RUNNING = 12
MOST_JOBS = 10_000  # more are more likely a mistake than a wish


@dataclass(frozen=True, kw_only=True)
class Settings(Search, Rules, SlurmSettings):
    """One sweep, in the words of the dispatcher's flags."""

    script: str
    config_path: str
    log_dir: str
    grid_search_results_path: str
    engine: str
    gpus: str
    jobs_per_gpu: int
    num_workers: int
    prune: str
    prune_after: int
    yes: bool


def run_sweep(settings: Settings) -> int:
    """Plan, run, report; the exit code. Guard and probe start first: both take longer than the planning."""
    config = checked_config(settings)
    script = find_script(settings.script)
    engine, where = make_engine(settings)
    try:
        with probe(script) as child:
            planned, searcher = plan(settings, config, child)
        writable_folder(settings.log_dir, "--log_dir")
        if os.path.isdir(csv_path := settings.grid_search_results_path):
            raise UserError(f"grid_search_results_path is {csv_path!r}, which is a folder; give a file in it")
        writable_folder(os.path.dirname(os.path.abspath(csv_path)), "--grid_search_results_path")
        sweep = Sweep(script, settings.log_dir, engine, settings, script.code)
        count = len(planned) or settings.trials
        print(f"{count} jobs of {script.name} in {settings.log_dir}, on {where}", flush=True)
        results = Results(settings, sweep)  # before the jobs are added: what earlier starts found counts
        if settings.prune != "none":
            Pruner(settings.prune, settings, settings.prune_after, sweep)
        sweep.add(planned)
        index = make_index(settings, sweep)
        table.write_index(settings.log_dir, index, planned)
        if searcher is not None:
            searcher.attach(sweep, results.score, index)
        with View(sweep, results.describe):
            progress = sweep.run(close=False)
        engine.close(wait=progress.interrupted)  # the guard ends while the report is written
        return finish(settings, progress, results)
    finally:
        engine.close()


def dry_run(settings: Settings) -> int:
    """Check everything and print one command per line, as a shell would take it; run nothing."""
    config = checked_config(settings)
    script = find_script(settings.script)
    with probe(script) as child:
        planned, searcher = plan(settings, config, child)
    for job in planned[:SHOWN_IN_DRY_RUN]:
        folder = os.path.join(os.path.abspath(settings.log_dir), job.name)
        print(shlex.join(script.command(job.argv + script.own_argv(folder))))
    if len(planned) > SHOWN_IN_DRY_RUN:
        print(f"... and {len(planned) - SHOWN_IN_DRY_RUN} more")
    if searcher is not None:
        print(f"{settings.trials} jobs of {script.name}; tpe chooses each point when the earlier ones have ended")
    return 0


def checked_config(settings: Settings) -> Any:
    """The grid file; a huge grid is refused before it is built, unless it is meant."""
    config = grid.load_config(settings.config_path)
    points = grid.count_experiments(config) if settings.search == "grid" else settings.trials
    count = points * max(1, settings.seeds)
    if count > MOST_JOBS and not settings.yes:
        raise UserError(f"this would be {count:,} jobs; if you mean it, add --yes (asked above {MOST_JOBS:,})")
    return config


def plan(settings: Settings, config: Any, child: Probe) -> tuple[list[Job], Searcher | None]:
    """The checked jobs of a grid or a random search, without repeats; for tpe the searcher that will make them."""
    if settings.search == "grid":
        return make_jobs(child, grid.add_seeds(grid.get_experiment_list(config), settings.seeds)), None
    searcher = Searcher(settings, config, child)
    if settings.search == "random":
        return make_jobs(child, searcher.draw_all()), None
    check_points(child, searcher.corners())
    return [], searcher


def make_jobs(child: Probe, points: list[dict[str, Any]]) -> list[Job]:
    """Jobs for points, checked by the script's own parser; equal ones once."""
    argvs = check_points(child, points)
    made = (Job.build(child.script.name, point, argv) for point, argv in zip(points, argvs, strict=True))
    return list({job.name: job for job in made}.values())


def make_index(settings: Settings, sweep: Sweep) -> dict[str, Any]:
    """What sweep.json says besides the jobs. Names the files that have changed since finished jobs were made."""
    script = sweep.script
    codes = table.read_index(settings.log_dir).get("codes", {})  # the modules behind each digest
    for digest, count in sweep.progress.made_by.items():
        if digest in (None, script.code):
            continue
        before = codes.get(digest, {})
        changed = sorted(n for n in {*before, *script.modules} if before.get(n) != script.modules.get(n))
        print(
            f"note: {count} of the finished jobs were made by other code (changed: {', '.join(changed[:3]) or digest}"
            f"{', ...' if len(changed) > 3 else ''}); they are not run again: for that choose a new --log_dir"
        )
    about = {name: getattr(settings, name) for name in ("metric", "direction", "search")}
    return {"script": script.name, **about, "codes": {**codes, script.code: script.modules}}


def make_engine(settings: Settings) -> tuple[Engine, str]:
    """The engine, and in words on what the jobs run and why."""
    if settings.engine == "slurm":
        return SlurmEngine(settings, settings.log_dir, settings.search == "tpe"), "Slurm"
    devices, why = find_devices(settings.gpus, settings.jobs_per_gpu, settings.num_workers)
    return LocalEngine(devices), describe_devices(devices, why)


def in_words(seconds: float) -> str:
    """'3 h 05 min', '4 min 10 s' or '12 s'."""
    minutes, seconds = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def summary_line(progress: Progress, best: str) -> str:
    """'12 done (3 before), 4 running, 8 waiting, 1 failed · best val_acc 0.91 by ... · 2 min left'."""
    before, ended = sum(progress.made_by.values()), progress.ended
    parts = [f"{ended['done']} done" + (f" ({before} before)" if before else "")]
    parts += [f"{len(progress.running)} running", f"{progress.waiting} waiting"]
    more = {"running elsewhere": progress.elsewhere, "failed": ended["failed"], "stopped": ended["stopped"]}
    parts += [f"{count} {word}" for word, count in more.items() if count]
    ahead = progress.time_left_s() if progress.running or progress.waiting else None
    left = f" · about {in_words(ahead)} left" if ahead is not None else ""
    return ", ".join(parts) + (f" · best {best}" if best else "") + left


class View:
    """One line for each job that did not end well, and the state: always on a terminal, else twice a minute."""

    def __init__(self, sweep: Sweep, best: Callable[[], str]) -> None:
        self.progress, self.best = sweep.progress, best
        sweep.on_finished.append(self.job_ended)
        sweep.on_turn.append(self.update)
        self._last = time.monotonic()
        # No thread of its own: `update` redraws, at most twice a second.
        self._live = Live(self._picture(), auto_refresh=False, transient=True) if Live is not None else None

    def __enter__(self) -> None:
        if self._live:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        print(summary_line(self.progress, self.best()), flush=True)

    def job_ended(self, job: Job, status: Status) -> None:
        if status.state != "done":
            print(f"{status.state}: {job.name}: {status.reason}", flush=True)

    def update(self) -> None:
        if time.monotonic() - self._last < (0.5 if self._live else PLAIN_EVERY_S):
            return
        self._last = time.monotonic()
        if self._live:
            self._live.update(self._picture(), refresh=True)
        else:
            print(summary_line(self.progress, self.best()), flush=True)

    def _picture(self) -> object:
        running, now = list(self.progress.running.items()), time.time()
        lines = [f"{in_words(now - start):>14}  {name}" for name, start in running[:SHOWN_RUNNING]]
        lines += [f"... and {len(running) - SHOWN_RUNNING} more"] if len(running) > SHOWN_RUNNING else []
        bar = ProgressBar(total=max(1, self.progress.total), completed=self.progress.ended.total(), width=60)
        running_text = Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
        return Group(running_text, bar, Text(summary_line(self.progress, self.best())))


class Results:
    """The results so far, for the live view, the search and the report."""

    def __init__(self, search: Search, sweep: Sweep) -> None:
        self.search, self.sweep = search, sweep
        self.rows: dict[str, table.Row] = {}  # of all done jobs: 10,000 files need be read only once
        self.best: table.Row | None = None
        self.metric: str | None = None
        sweep.on_finished.append(self.look)

    def look(self, job: Job, status: Status) -> None:
        if status.state != "done":
            return
        row = self.rows[job.name] = table.read_row(self.sweep.log_dir, job.name, job.config, status)
        with contextlib.suppress(UserError):  # the report at the end will say that there is no such metric
            self.metric = self.metric or table.pick_metric([row], self.search.metric)
        if self.score(job.name) > (self.score(self.best.name) if self.best else float("-inf")):
            self.best = row

    def score(self, name: str) -> float:
        """The metric of a job, turned so that more is better; NaN if it has none."""
        sign = -1 if self.metric and table.is_better_when_low(self.metric, self.search.direction) else 1
        return sign * table.number(self.rows[name], self.metric) if name in self.rows else float("nan")

    def describe(self) -> str:
        """'best_val_acc 0.91 by learning_rate=0.01'; '' before the first result."""
        if self.best is None:
            return ""
        varying = effects.varying([job.config for job in self.sweep.jobs.values()])
        flags = ", ".join(f"{flag}={effects.show(self.best.config.get(flag))}" for flag in varying)
        return f"{self.metric} {table.number(self.best, self.metric):.4g}" + (f" by {flags}" if flags else "")


def finish(settings: Settings, progress: Progress, results: Results) -> int:
    """Write the reports, say where they are, choose the exit code."""
    if progress.gave_up:
        print(f"stopped early: {progress.gave_up}")
    write_reports(settings.log_dir, settings.grid_search_results_path, settings, known=results.rows)
    if progress.left_running:
        print(f"{progress.left_running} jobs are with Slurm; the same command collects them, with --watch it stays")
        return 0
    if progress.interrupted:
        print("interrupted; the same command resumes from here")
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if progress.ended["failed"] or progress.gave_up or progress.cancelled else 0


def write_reports(
    log_dir: str, csv_path: str, search: Search, top_k: int = 10, known: dict[str, table.Row] | None = None
) -> None:
    """grid_results.csv, report.html and the best configurations on the terminal."""
    check_choice("direction", search.direction, ("auto", "min", "max"))
    rows = table.read_rows(log_dir, known)
    place = table.place_of_csv(csv_path, log_dir, rows)
    table.write_csv(place, rows)
    metric = table.pick_metric(rows, search.metric)
    groups = table.group_by_seed(rows, metric, search.direction)
    if odd := table.not_finite(rows, metric):
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        print(f"note: {metric} is not a finite number and counts as missing in: {', '.join(odd[:3])}{more}")
    if metric is not None:
        aim = "lowest" if table.is_better_when_low(metric, search.direction) else "highest"
        print(f"best by {metric} ({aim} first):")
        labels = table.label_groups(rows, groups)
        for group, label in [(g, label) for g, label in zip(groups, labels, strict=True) if g.values][:top_k]:
            print(f"  {group.describe():28s} {label}")
    page = os.path.join(log_dir, "report.html")
    write_report(page, log_dir, rows, groups, metric, search.direction)
    kept = "" if place == csv_path else f" ({csv_path} holds the jobs of another --log_dir and stays as it is)"
    print(f"table: {place}{kept}   report: {page}", flush=True)
