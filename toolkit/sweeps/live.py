"""What a person sees while a sweep runs: a live table on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from toolkit.sweeps.jobs import Job, Status
from toolkit.sweeps.sweep import Progress

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


class PlainView:
    """One line for each job that did not end well, and a summary every half a minute."""

    def __init__(self, progress: Progress, best: Callable[[], str]) -> None:
        self.progress, self.best = progress, best
        self._last = time.monotonic()

    def job_ended(self, job: Job, status: Status) -> None:
        if status.state != "done" and self.progress.finished:
            print(f"{status.state}: {job.name}: {status.reason}", flush=True)

    def update(self) -> None:
        if time.monotonic() - self._last >= PLAIN_EVERY_S:
            self._last = time.monotonic()
            print(summary_line(self.progress, self.best()), flush=True)

    def close(self) -> None:
        print(summary_line(self.progress, self.best()), flush=True)


class TableView(PlainView):
    """The same as a table that redraws itself (rich)."""

    def __init__(self, progress: Progress, best: Callable[[], str]) -> None:
        super().__init__(progress, best)
        from rich.live import Live

        # No thread of its own: `update` redraws, at most four times a second.
        self._live = Live(self._table(), auto_refresh=False, transient=True)
        self._live.start()

    def job_ended(self, job: Job, status: Status) -> None:
        if status.state != "done" and self.progress.finished:
            self._live.console.print(f"{status.state}: {job.name}: {status.reason}", markup=False, highlight=False)

    def update(self) -> None:
        if time.monotonic() - self._last >= 0.25:
            self._last = time.monotonic()
            self._live.update(self._table(), refresh=True)

    def close(self) -> None:
        self._live.stop()
        super().close()

    def _table(self) -> object:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=bool(self.progress.running), header_style="bold")
        table.add_column("running", overflow="ellipsis", no_wrap=True)
        table.add_column("for", justify="right", no_wrap=True)
        now = time.time()
        for name, start in list(self.progress.running.items())[:SHOWN_RUNNING]:
            table.add_row(Text(name), in_words(now - start))
        hidden = len(self.progress.running) - SHOWN_RUNNING
        if hidden > 0:
            table.add_row(f"... and {hidden} more", "")
        ended = self.progress.done + self.progress.failed + self.progress.stopped
        bar = ProgressBar(total=max(1, self.progress.total), completed=ended, width=60)
        return Group(table, bar, Text(summary_line(self.progress, self.best())))


def make_view(progress: Progress, best: Callable[[], str]) -> PlainView:
    """A table if a person looks at a terminal and rich is there, else plain lines."""
    if sys.stdout.isatty():
        try:
            return TableView(progress, best)
        except ImportError:
            pass
    return PlainView(progress, best)
