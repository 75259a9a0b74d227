"""What `python dispatcher.py` does, step by step: read the grid, check it, run it, report."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from toolkit.errors import UserError, check_choice
from toolkit.sweeps import grid, table
from toolkit.sweeps.jobs import Job, Status
from toolkit.sweeps.local import Engine, LocalEngine, describe_devices, find_devices
from toolkit.sweeps.report import write_report
from toolkit.sweeps.script import Probe, Script, check_points, find_script, probe
from toolkit.sweeps.search import Pruner, Search, Searcher
from toolkit.sweeps.slurm import SlurmEngine, SlurmSettings
from toolkit.sweeps.sweep import Progress, Rules, Sweep

Live = None
if sys.stdout.isatty():  # rich takes 40 ms to import, and a pipe has no use for it
    with contextlib.suppress(ImportError):
        from rich.console import Group
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

EXIT_SOME_FAILED, EXIT_INTERRUPTED = 1, 130
SHOWN_IN_DRY_RUN = 1000
PLAIN_EVERY_S = 30
SHOWN_RUNNING = 12
MOST_JOBS = 10_000  # more are more likely a mistake than a wish


@dataclass(frozen=True)
class Settings:
    """One sweep, as the dispatcher's flags describe it."""

    script: str
    config_path: str
    log_dir: str
    csv_path: str
    search: Search = field(default_factory=Search)
    rules: Rules = field(default_factory=Rules)
    gpus: str = "auto"
    jobs_per_gpu: int = 1
    num_workers: int = 1
    prune: str = "none"
    prune_after: int = 1
    slurm: SlurmSettings | None = None  # None: this machine
    yes: bool = False  # more than MOST_JOBS jobs are meant


def run_sweep(settings: Settings) -> int:
    """Plan, run, report; the exit code. Guard and probe start first: both take longer than the planning."""
    config = grid.load_config(settings.config_path)
    check_count(settings, config)
    script = find_script(settings.script)
    engine, where = make_engine(settings)
    try:
        with probe(script) as child:
            planned, searcher = plan(settings, config, child)
        check_writable("log_dir", settings.log_dir)
        check_writable("grid_search_results_path", os.path.dirname(os.path.abspath(settings.csv_path)))
        sweep = Sweep(script, settings.log_dir, engine, settings.rules, script.code)
        print(
            f"{len(planned) or settings.search.trials} jobs of {script.name} in {settings.log_dir}, on {where}",
            flush=True,
        )
        best = Best(settings.search, sweep)  # before the jobs are added: view and pruner know what earlier starts found
        if settings.prune != "none":
            Pruner(settings.prune, settings.search, settings.prune_after).attach(sweep)
        sweep.add(planned)
        index = make_index(settings, script)
        note_changed_code(sweep, table.read_index(settings.log_dir).get("codes", {}), script)
        table.write_index(settings.log_dir, index, planned)
        if searcher is not None:
            searcher.index = index
            searcher.attach(sweep)
        progress = run_with_view(sweep, best)
        engine.close(wait=progress.interrupted)  # the guard ends while the report is written
        return finish(settings, progress, best)
    finally:
        engine.close()


def dry_run(settings: Settings) -> int:
    """Check everything and print one command per line, as a shell would take it; run nothing."""
    config = grid.load_config(settings.config_path)
    check_count(settings, config)
    script = find_script(settings.script)
    with probe(script) as child:
        planned, searcher = plan(settings, config, child)
    for job in planned[:SHOWN_IN_DRY_RUN]:
        folder = os.path.join(os.path.abspath(settings.log_dir), job.name)
        print(shlex.join(script.command(job.argv + script.own_argv(folder))))
    if len(planned) > SHOWN_IN_DRY_RUN:
        print(f"... and {len(planned) - SHOWN_IN_DRY_RUN} more")
    if searcher is not None:
        print(
            f"{settings.search.trials} jobs of {script.name}; tpe chooses each point when the earlier ones have ended"
        )
    return 0


def check_count(settings: Settings, config: Any) -> None:
    """Refuse a huge grid before it is built, unless it is meant."""
    search = settings.search
    points = grid.count_experiments(config) if search.kind == "grid" else search.trials
    count = points * max(1, search.seeds)
    if count > MOST_JOBS and not settings.yes:
        raise UserError(f"this would be {count:,} jobs; if you mean it, add --yes (asked above {MOST_JOBS:,})")


def plan(settings: Settings, config: Any, child: Probe) -> tuple[list[Job], Searcher | None]:
    """The checked jobs of a grid or a random search, without repeats; for tpe the searcher that will make them."""
    search = settings.search
    if search.kind == "grid":
        return make_jobs(child, grid.add_seeds(grid.get_experiment_list(config), search.seeds)), None
    searcher = Searcher(search, config, child)
    if search.kind == "random":
        return make_jobs(child, searcher.draw_all()), None
    check_points(child, searcher.corners())
    return [], searcher


def make_jobs(child: Probe, points: list[dict[str, Any]]) -> list[Job]:
    """Jobs for points, checked by the script's own parser; equal ones once."""
    argvs = check_points(child, points)
    made = (Job.build(child.script.name, point, argv) for point, argv in zip(points, argvs, strict=True))
    return list({job.name: job for job in made}.values())


def check_writable(flag: str, folder: str) -> None:
    """Make the folder and prove that it can be written, before anything starts; UserError if not."""
    try:
        os.makedirs(folder, exist_ok=True)
        trial = os.path.join(folder, f".writable.{os.getpid()}")
        with open(trial, "w", encoding="utf-8"):
            pass
        os.remove(trial)
    except OSError as error:
        raise UserError(f"{flag}: the folder {folder!r} cannot be written: {error.strerror}") from None


def make_index(settings: Settings, script: Script) -> dict[str, Any]:
    """What sweep.json says besides the jobs. `codes`: the modules behind each digest, to name what has changed."""
    codes = table.read_index(settings.log_dir).get("codes", {})
    search = settings.search
    about = {"script": script.name, "metric": search.metric, "direction": search.direction, "search": search.kind}
    return {**about, "codes": {**codes, script.code: script.modules}}


def note_changed_code(sweep: Sweep, codes: dict[str, dict[str, str]], script: Script) -> None:
    """Say that finished jobs stay as they are if other code has made them, and which files differ."""
    for digest, count in sweep.progress.made_by.items():
        if digest in (None, script.code):
            continue
        before = codes.get(digest, {})
        changed = sorted(n for n in {*before, *script.modules} if before.get(n) != script.modules.get(n))
        print(
            f"note: {count} of the finished jobs were made by other code (changed: {', '.join(changed[:3]) or digest}"
            f"{', ...' if len(changed) > 3 else ''}); they are not run again: for that choose a new --log_dir"
        )


def make_engine(settings: Settings) -> tuple[Engine, str]:
    """The engine, and in words on what the jobs run and why."""
    if settings.slurm is not None:
        return SlurmEngine(settings.slurm, settings.log_dir, settings.search.kind == "tpe"), "Slurm"
    devices, why = find_devices(settings.gpus, settings.jobs_per_gpu, settings.num_workers)
    return LocalEngine(devices), describe_devices(devices, why)


def in_words(seconds: float | None) -> str:
    """'3 h 05 min', '4 min 10 s' or '12 s'; '?' for None."""
    if seconds is None:
        return "?"
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"


def summary_line(progress: Progress, best: str) -> str:
    """'12 done (3 before), 4 running, 8 waiting, 1 failed · best val_acc 0.91 by ... · 2 min left'."""
    before = f" ({progress.already_done} before)" if progress.already_done else ""
    parts = [f"{progress.done} done{before}", f"{len(progress.running)} running", f"{progress.waiting} waiting"]
    parts += [f"{progress.elsewhere} running elsewhere"] if progress.elsewhere else []
    parts += [f"{progress.failed} failed"] if progress.failed else []
    parts += [f"{progress.stopped} stopped"] if progress.stopped else []
    ahead = progress.time_left_s() if progress.running or progress.waiting else None
    left = f" · about {in_words(ahead)} left" if ahead is not None else ""
    return ", ".join(parts) + (f" · best {best}" if best else "") + left


class View:
    """One line for each job that did not end well, and the state: always on a terminal, else twice a minute."""

    def __init__(self, progress: Progress, best: Callable[[], str]) -> None:
        self.progress, self.best = progress, best
        self._last = time.monotonic()
        self._live = None
        if sys.stdout.isatty() and Live is not None:
            # No thread of its own: `update` redraws, at most four times a second.
            self._live = Live(self._table(), auto_refresh=False, transient=True)
            self._live.start()

    def job_ended(self, job: Job, status: Status) -> None:
        if status.state != "done" and self.progress.finished:
            print(f"{status.state}: {job.name}: {status.reason}", flush=True)

    def update(self) -> None:
        if time.monotonic() - self._last < (0.25 if self._live else PLAIN_EVERY_S):
            return
        self._last = time.monotonic()
        if self._live:
            self._live.update(self._table(), refresh=True)
        else:
            print(summary_line(self.progress, self.best()), flush=True)

    def close(self) -> None:
        if self._live:
            self._live.stop()
        print(summary_line(self.progress, self.best()), flush=True)

    def _table(self) -> object:
        running, now = list(self.progress.running.items()), time.time()
        table = Table(box=None, show_header=bool(running), header_style="bold")
        table.add_column("running", overflow="ellipsis", no_wrap=True)
        table.add_column("for", justify="right", no_wrap=True)
        for name, start in running[:SHOWN_RUNNING]:
            table.add_row(Text(name), in_words(now - start))
        if len(running) > SHOWN_RUNNING:
            table.add_row(f"... and {len(running) - SHOWN_RUNNING} more", "")
        ended = self.progress.done + self.progress.failed + self.progress.stopped
        bar = ProgressBar(total=max(1, self.progress.total), completed=ended, width=60)
        return Group(table, bar, Text(summary_line(self.progress, self.best())))


def make_view(progress: Progress, best: Callable[[], str]) -> View:
    """A table if a person looks at a terminal and rich is there, else plain lines."""
    return View(progress, best)


def run_with_view(sweep: Sweep, best: Best) -> Progress:
    """Run the sweep under a live view of its state."""
    view = make_view(sweep.progress, best.describe)
    sweep.on_finished.append(view.job_ended)
    sweep.on_turn.append(view.update)
    try:
        return sweep.run(close=False)
    finally:
        view.close()


class Best:
    """The best job so far, for the live view."""

    def __init__(self, search: Search, sweep: Sweep) -> None:
        self.search, self.sweep = search, sweep
        self.rows: dict[str, table.Row] = {}  # of all done jobs, for the report: 10,000 files need be read only once
        self.row: table.Row | None = None
        self.metric: str | None = None
        self._shown: tuple[int, list[str]] = (0, [])  # number of jobs, flags that differ between them
        sweep.on_finished.append(self.look)

    def look(self, job: Job, status: Status) -> None:
        if status.state != "done":
            return
        row = self.rows[job.name] = table.read_row(self.sweep.log_dir, job.name, job.config, status)
        try:
            self.metric = self.metric or table.pick_metric([row], self.search.metric)
        except UserError:
            return  # the report at the end will say that there is no such metric
        sign = -1 if self.metric and table.is_better_when_low(self.metric, self.search.direction) else 1
        value, before = (sign * table.number(one, self.metric) if one else float("-inf") for one in (row, self.row))
        if value > before:
            self.row = row

    def describe(self) -> str:
        if self.row is None or self.metric is None:
            return ""
        known = self.sweep.jobs.values()
        if self._shown[0] != len(known):  # a view asks four times a second
            self._shown = (len(known), table.varying([table.Row(job.name, job.config, Status()) for job in known]))
        flags = ", ".join(f"{flag}={table.show(self.row.config.get(flag))}" for flag in self._shown[1])
        return f"{self.metric} {table.number(self.row, self.metric):.4g}" + (f" by {flags}" if flags else "")


def finish(settings: Settings, progress: Progress, best: Best) -> int:
    """Write the reports, say where they are, choose the exit code."""
    if progress.gave_up:
        print(f"stopped early: {progress.gave_up}")
    write_reports(settings.log_dir, settings.csv_path, settings.search, known=best.rows)
    if progress.left_running:
        print(f"{progress.left_running} jobs are with Slurm; the same command collects them, with --watch it stays")
        return 0
    if progress.interrupted:
        print("interrupted; the same command resumes from here")
        return EXIT_INTERRUPTED
    cancelled = any(status.state == "stopped" and not status.is_settled for _, status in progress.finished)
    return EXIT_SOME_FAILED if progress.failed or progress.gave_up or cancelled else 0


def write_reports(
    log_dir: str, csv_path: str, search: Search, top_k: int = 10, known: dict[str, table.Row] | None = None
) -> None:
    """grid_results.csv, report.html and the best configurations on the terminal."""
    check_choice("direction", search.direction, ("auto", "min", "max"))
    rows = table.read_rows(log_dir, known)
    table.write_csv(csv_path, rows)
    metric = table.pick_metric(rows, search.metric)
    groups = table.group_by_seed(rows, metric, search.direction)
    odd = table.not_finite(rows, metric)
    if odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        print(f"note: {metric} is not a finite number and counts as missing in: {', '.join(odd[:3])}{more}")
    if metric is not None:
        aim = "lowest" if table.is_better_when_low(metric, search.direction) else "highest"
        print(f"best by {metric} ({aim} first):")
        for line in best_lines(rows, groups, top_k):
            print(line)
    page = os.path.join(log_dir, "report.html")
    write_report(page, log_dir, rows, groups, metric, search.direction)
    print(f"table: {csv_path}   report: {page}", flush=True)


def best_lines(rows: list[table.Row], groups: list[table.Group], top_k: int) -> Iterator[str]:
    """'  0.912 ± 0.004 (n=3)   learning_rate=0.001'; with script, data set and code where they differ."""
    origins = table.differing_origins(groups)
    shown: Callable[[Any], str] = table.show
    for group in [group for group in groups if group.values][:top_k]:
        words = [f"{name}={shown(group.origin[name])}" for name in origins]
        words += [f"{flag}={shown(group.config.get(flag))}" for flag in table.varying(rows) if flag != "seed"]
        yield f"  {group.describe():28s} {', '.join(words)}"
