"""What a person sees while a sweep runs: a live table on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

from toolkit.sweeps.jobs import Job, Status
from toolkit.sweeps.sweep import Progress

Live = None
if sys.stdout.isatty():  # rich takes 40 ms to import, and a pipe has no use for it
    with contextlib.suppress(ImportError):
        from rich.console import Group
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

PLAIN_EVERY_S = 30
SHOWN_RUNNING = 12


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
