"""What `python dispatcher.py` does, step by step: read the grid, check it, run it, report."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from toolkit.errors import UserError
from toolkit.sweeps import grid, jobs, table
from toolkit.sweeps.effects import show
from toolkit.sweeps.engine import Engine
from toolkit.sweeps.jobs import Job
from toolkit.sweeps.options import build_parser, build_report_parser
from toolkit.sweeps.script import Probe, Script, check_points, find_script, probe
from toolkit.sweeps.sweep import Progress, Rules, Sweep

EXIT_SOME_FAILED, EXIT_INTERRUPTED, EXIT_NOBODY_READS = 1, 130, 141
SHOWN_IN_DRY_RUN = 1000


def run_command(argv: list[str]) -> int:
    """Run the dispatcher with these arguments; return its exit code."""
    try:
        return report_command(argv[1:]) if argv[:1] == ["report"] else sweep_command(argv)
    except BrokenPipeError:  # `| head` has seen enough; the interpreter's own flush at its end must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NOBODY_READS


def sweep_command(argv: list[str]) -> int:
    """`python dispatcher.py`: plan, run, report."""
    args = build_parser().parse_args(argv)
    check_arguments(args)
    config = grid.load_config(args.config_path)
    script = find_script(args.script)
    with probe(script) as child:
        planned, searcher = plan(args, config, child)
    if args.dry_run:
        print_commands(args, script, planned)
        return 0
    check_writable("log_dir", args.log_dir)
    check_writable("grid_search_results_path", os.path.dirname(os.path.abspath(args.grid_search_results_path)))
    sweep = Sweep(script, args.log_dir, make_engine(args), make_rules(args))
    print(f"{len(planned) or args.trials} jobs of {script.name} in {args.log_dir}", flush=True)
    best = Best(args, sweep)  # before the jobs are added: the view and the pruner also know what earlier starts found
    add_pruner(args, sweep)
    sweep.add(planned)
    note_changed_code(script, sweep.progress.oldest_done)
    table.write_index(args.log_dir, script.name, args.metric, planned)
    if searcher is not None:
        searcher.attach(sweep)
    progress = run_with_view(sweep, best)
    return finish(args, progress, best)


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse numbers that make no sense, by name."""
    for name, least in (
        ("seeds", 0),
        ("trials", 1),
        ("retries", 0),
        ("stop_after", 0),
        ("timeout_s", 0),
        ("grace_s", 0),
        ("slurm_throttle", 1),
    ):
        if getattr(args, name) < least:
            raise UserError(f"{name} is {getattr(args, name)}; it must be at least {least}")
    if args.engine == "slurm" and not args.watch and (args.prune != "none" or args.search == "tpe"):
        raise UserError(
            "with --engine slurm, --prune and --search tpe need --watch: the dispatcher decides as jobs run"
        )


def plan(args: argparse.Namespace, config: Any, child: Probe) -> tuple[list[Job], Any]:
    """The checked jobs of a grid or a random search, without repeats; for tpe the searcher that will make them."""
    if args.search == "grid":
        return make_jobs(child, grid.add_seeds(grid.get_experiment_list(config), args.seeds)), None
    from toolkit.sweeps.search import Searcher

    searcher = Searcher(args, config, child.script)
    if args.search == "random":
        return make_jobs(child, searcher.draw_all()), None
    check_points(child, searcher.corners())
    return [], searcher


def make_jobs(child: Probe, points: list[dict[str, Any]]) -> list[Job]:
    """Jobs for points, checked by the script's own parser; equal ones once."""
    argvs = check_points(child, points)
    made: dict[str, Job] = {}
    for point, argv in zip(points, argvs, strict=True):
        job = Job.build(child.script.name, point, argv)
        made.setdefault(job.name, job)
    return list(made.values())


def print_commands(args: argparse.Namespace, script: Script, planned: list[Job]) -> None:
    """One command a line, as a shell would take it."""
    lines = []
    for job in planned[:SHOWN_IN_DRY_RUN]:
        folder = os.path.join(os.path.abspath(args.log_dir), job.name)
        lines.append(shlex.join(script.command(job.argv + script.own_argv(folder))))
    hidden = len(planned) - SHOWN_IN_DRY_RUN
    if hidden > 0:
        lines.append(f"... and {hidden} more")
    if args.search == "tpe":
        lines.append(f"{args.trials} jobs of {script.name}; tpe chooses each point when the earlier ones have ended")
    print("\n".join(lines), flush=True)


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


def note_changed_code(script: Script, oldest_done: float | None) -> None:
    """Say that finished jobs stay as they are if the code beside the script is younger than they."""
    if oldest_done is None or script.is_module:
        return
    changed = [path.name for path in Path(script.name).parent.glob("*.py") if path.stat().st_mtime > oldest_done]
    if changed:
        since = time.strftime("%H:%M:%S on %Y-%m-%d", time.localtime(oldest_done))
        print(
            f"note: {', '.join(sorted(changed)[:3])}{', ...' if len(changed) > 3 else ''} changed after {since}, when "
            "the first of the finished jobs ended; those are not run again: for that choose a new --log_dir"
        )


def make_engine(args: argparse.Namespace) -> Engine:
    """The engine that --engine names."""
    if args.engine == "slurm":
        from toolkit.sweeps.slurm import SlurmEngine

        return SlurmEngine(args)
    from toolkit.sweeps.devices import find_devices
    from toolkit.sweeps.local import LocalEngine

    return LocalEngine(find_devices(args.gpus, args.jobs_per_gpu, args.num_workers))


def make_rules(args: argparse.Namespace) -> Rules:
    return Rules(args.timeout_s, args.retries, args.stop_after, args.grace_s)


def add_pruner(args: argparse.Namespace, sweep: Sweep) -> None:
    """Let --prune watch the sweep."""
    if args.prune != "none":
        from toolkit.sweeps.prune import Pruner

        Pruner(args.prune, args.metric, args.prune_after).attach(sweep)


def run_with_view(sweep: Sweep, best: Best) -> Progress:
    """Run the sweep under a live view of its state."""
    from toolkit.sweeps.live import make_view

    view = make_view(sweep.progress, best.describe)
    sweep.on_finished.append(view.job_ended)
    sweep.on_turn.append(view.update)
    try:
        return sweep.run()
    finally:
        view.close()


class Best:
    """The best job so far, for the live view."""

    def __init__(self, args: argparse.Namespace, sweep: Sweep) -> None:
        self.wanted, self.sweep = args.metric, sweep
        self.rows: dict[str, table.Row] = {}  # of all done jobs, for the report: 10,000 files need be read only once
        self.row: table.Row | None = None
        self.metric: str | None = None
        self._shown: tuple[int, list[str]] = (0, [])  # number of jobs, flags that differ between them
        sweep.on_finished.append(self.look)

    def look(self, job: Job, status: Any) -> None:
        if status.state != "done":
            return
        row = self.rows[job.name] = table.read_row(self.sweep.log_dir, job.name, job.config, status)
        try:
            self.metric = self.metric or table.pick_metric([row], self.wanted)
        except UserError:
            return  # the report at the end will say that there is no such metric
        sign = -1 if self.metric and table.is_better_when_low(self.metric) else 1
        value = table.number(row, self.metric)
        if not math.isnan(value) and (self.row is None or sign * value > sign * table.number(self.row, self.metric)):
            self.row = row

    def describe(self) -> str:
        if self.row is None or self.metric is None:
            return ""
        known = self.sweep.jobs.values()
        if self._shown[0] != len(known):  # a view asks four times a second
            self._shown = (len(known), table.varying([table.Row(job.name, job.config, jobs.Status()) for job in known]))
        flags = ", ".join(f"{flag}={show(self.row.config.get(flag))}" for flag in self._shown[1])
        return f"{self.metric} {table.number(self.row, self.metric):.4g}" + (f" by {flags}" if flags else "")


def finish(args: argparse.Namespace, progress: Progress, best: Best) -> int:
    """Write the reports, say where they are, choose the exit code."""
    if progress.gave_up:
        print(f"stopped early: {progress.gave_up}")
    write_reports(table.read_rows(args.log_dir, best.rows), args.log_dir, args.grid_search_results_path, args.metric)
    if progress.left_running:
        print(f"{progress.left_running} jobs are with Slurm; the same command collects them, with --watch it stays")
        return 0
    if progress.interrupted:
        print("interrupted; the same command goes on from here")
        return EXIT_INTERRUPTED
    cancelled = any(status.state == "stopped" and not status.is_settled for _, status in progress.finished)
    return EXIT_SOME_FAILED if progress.failed or progress.gave_up or cancelled else 0


def write_reports(rows: list[table.Row], log_dir: str, csv_path: str, metric: str, top_k: int = 10) -> None:
    """grid_results.csv, report.html and the best configurations on the terminal."""
    from toolkit.sweeps.report import write_report

    table.write_csv(csv_path, rows)
    name = table.pick_metric(rows, metric)
    groups = table.group_by_seed(rows, name)
    if name is not None:
        print(f"best by {name}:")
        shown = table.varying(rows)
        for group in [group for group in groups if group.values][:top_k]:
            values = ", ".join(f"{flag}={show(group.config.get(flag))}" for flag in shown if flag != "seed")
            print(f"  {group.describe():28s} {values}")
    page = os.path.join(log_dir, "report.html")
    write_report(page, log_dir, rows, groups, name, top_k)
    print(f"table: {csv_path}   report: {page}", flush=True)


def report_command(argv: list[str]) -> int:
    """`python dispatcher.py report LOG_DIR`."""
    args = build_report_parser().parse_args(argv)
    csv_path = args.grid_search_results_path or os.path.join(args.log_dir, "grid_results.csv")
    write_reports(table.read_rows(args.log_dir), args.log_dir, csv_path, args.metric, args.top_k)
    if args.tensorboard:
        from toolkit.tensorboard_logs import Logbook

        known = Logbook([args.log_dir], args.tensorboard).look()
        print(f"{known} runs for TensorBoard: tensorboard --logdir {args.tensorboard}")
    return 0
