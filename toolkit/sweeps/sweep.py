"""Bring every job of a sweep to its end on one engine: start, retry, take over, stop early, say what happened."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from toolkit.cli import DISK_FULL
from toolkit.sweeps import jobs
from toolkit.sweeps.jobs import Job, Status, Task
from toolkit.sweeps.local import Engine
from toolkit.sweeps.script import Script

ELSEWHERE_CHECK_S = 1.0


@dataclass(frozen=True)
class Rules:
    """Limits of a sweep. Times in seconds; 0 means no limit."""

    timeout_s: float = 0
    retries: int = 1
    stop_after: int = 3  # give up when this many jobs in a row, from the first on, die of the same cause
    grace_s: float = 5.0


@dataclass
class Progress:
    """What a view shows."""

    slots: int
    total: int = 0
    ended: Counter[str] = field(default_factory=Counter)  # number of done, failed and stopped jobs
    made_by: Counter[str | None] = field(default_factory=Counter)  # code digests of those that ended in earlier starts
    running: dict[str, float] = field(default_factory=dict)  # name -> start time
    elsewhere: int = 0
    seconds: list[float] = field(default_factory=list)  # run times of the done jobs
    cancelled: int = 0  # jobs stopped in this start that the next one runs again
    left_running: int = 0  # jobs that a cluster works on while we leave
    gave_up: str | None = None  # why the sweep stopped before its end
    interrupted: bool = False

    @property
    def waiting(self) -> int:
        return max(0, self.total - self.ended.total() - len(self.running) - self.elsewhere)

    def time_left_s(self) -> float | None:
        """Estimate from the mean run time so far; None before the first job is done."""
        if not self.seconds:
            return None
        mean_s = sum(self.seconds) / len(self.seconds)
        now = time.time()
        running_s = sum(max(0.0, mean_s - (now - start)) for start in self.running.values())
        return (running_s + mean_s * self.waiting) / self.slots


@dataclass(frozen=True)
class Try:
    """One start of a job: the claim that it needs, and whether it wants a device for itself."""

    job: Job
    attempt: int
    alone: bool = False


class Sweep:
    """All jobs of one start of the dispatcher."""

    def __init__(self, script: Script, log_dir: str, engine: Engine, rules: Rules, code: str | None = None) -> None:
        self.script, self.log_dir, self.engine, self.rules = script, os.path.abspath(log_dir), engine, rules
        self.code = code  # digest of the script's modules, noted with each job
        self.jobs: dict[str, Job] = {}
        self.progress = Progress(slots=engine.slots)
        self.on_finished: list[Callable[[Job, Status], None]] = []
        self.on_turn: list[Callable[[], None]] = []  # called about four times a second: view, pruning
        self.refill: Callable[[], Iterable[Job]] = lambda: ()  # a search names new points here
        self.waits_for_results = False  # it wants to know the results so far when it does
        self._pending: deque[Try] = deque()
        self._running: dict[str, Try] = {}
        self._elsewhere: dict[str, Job] = {}
        self._elsewhere_check = 0.0
        self._retries: Counter[str] = Counter()
        self._first_deaths: list[str] = []
        self._interrupts = self._obeyed = 0

    def folder(self, job: Job) -> str:
        return os.path.join(self.log_dir, job.name)

    def add(self, new: Iterable[Job]) -> None:
        """Take in jobs: settled ones are counted, those that run somewhere are watched, the others wait for a place."""
        on_disk = set(os.listdir(self.log_dir)) if os.path.isdir(self.log_dir) else set()
        for job in new:
            if job.name in self.jobs:
                continue
            self.jobs[job.name] = job
            self.progress.total += 1
            if job.name not in on_disk:
                self._pending.append(Try(job, 1))
                continue
            status = jobs.read_status(self.folder(job))
            if status.is_settled:
                self.progress.made_by[status.code] += 1
            self._look(job, status)

    def _look(self, job: Job, status: Status) -> None:
        """See what became of a job that another process has started."""
        newest = 0
        if not status.is_settled:
            newest = jobs.newest_claim(self.folder(job))
            status = jobs.read_status(self.folder(job))  # after the claim, so that an end that comes between is seen
        has_ended = status.attempt >= newest and status.has_ended
        was_watched = self._elsewhere.pop(job.name, None) is not None
        if status.is_settled:
            self._count(job, status)
        elif (not has_ended and jobs.is_alive(self.folder(job), newest)) or self.engine.has_queued(job.name):
            self._elsewhere[job.name] = job
        elif was_watched and status.state == "failed" and status.attempt == newest:
            # Who started it may be dead: we give it its further tries. A claim keeps two from doing so.
            self._handle(Try(job, newest), status)
        else:
            self._pending.append(Try(job, max(newest, status.attempt) + 1))

    def run(self, close: bool = True) -> Progress:
        """Work until every job has ended, the sweep gives up, or a signal arrives; `close` the engine in any case."""
        with self._signals():
            try:
                self._start_jobs()
                while self._running or ((self._elsewhere or self._pending) and not self._is_ending):
                    for name in self.engine.wait(0.25):
                        self._ended(name)
                    if self._interrupts > self._obeyed:
                        self._obeyed = self._interrupts
                        self.engine.stop_all(now=self._obeyed > 1)
                    self._check_elsewhere()
                    self._note_running()
                    if self.engine.leaves and not self._is_ending:
                        self.progress.left_running = len(self._running) + len(self._elsewhere)
                        break
                    for turn in self.on_turn:
                        turn()
                    if self._obeyed > 1:
                        break
                    self._start_jobs()
            finally:
                if close:
                    self.engine.close()
        return self.progress

    @property
    def _is_ending(self) -> bool:
        return self.progress.interrupted or self.progress.gave_up is not None

    def _start_jobs(self) -> None:
        # Before the first success, every end may be the one after which the sweep gives up.
        self.engine.runs_ahead = self.progress.ended["done"] > 0 and not self.waits_for_results
        while not self._is_ending and self.engine.has_room(bool(self._pending and self._pending[0].alone)):
            while not self._pending:  # a search may name jobs that are done already
                new = list(self.refill())
                if not new:
                    return
                self.add(new)
            start = self._pending.popleft()
            self._running[start.job.name] = start
            self.engine.start(start.job.name, self.make_task(start.job, start.attempt), start.alone)

    def _note_running(self) -> None:
        """Which of the started jobs really run, and since when, for views and pruning."""
        queued = self.engine.in_queue()
        for name in self._running:
            if name in queued:
                self.progress.running.pop(name, None)
            else:
                self.progress.running.setdefault(name, time.time())

    def make_task(self, job: Job, attempt: int) -> Task:
        """The task for one attempt of a job."""
        folder = self.folder(job)
        return Task(
            folder=folder,
            command=self.script.command(job.argv + self.script.own_argv(folder)),
            attempt=attempt,
            config={"script": self.script.name, "config": job.config, "argv": job.argv, "code": self.code},
            resume_argv=self.script.resume_argv(folder),
            timeout_s=self.rules.timeout_s,
            grace_s=self.rules.grace_s,
            engine=self.engine.name,
        )

    def _ended(self, name: str) -> None:
        """A run of ours has ended; the folder says how, and the engine may know better."""
        start = self._running.pop(name)
        self.progress.running.pop(name, None)
        folder, attempt = self.folder(start.job), start.attempt
        status, newest = jobs.read_status(folder), jobs.newest_claim(folder)
        if status.is_settled:  # also: another process has finished it meanwhile
            self._handle(start, status)
            return
        if self._is_ending and newest < attempt:
            return  # taken out of a queue before it began
        has_said_so = status.attempt >= attempt and status.has_ended
        fate = self.engine.fate(name, status)
        has_owner = jobs.is_alive(folder, newest) and not self.engine.owns(jobs.owner_of(folder, newest).get("pid"))
        if fate is not None and fate.state == "queued":
            self._elsewhere[name] = start.job  # the engine runs it again by itself
        elif has_said_so and fate is None:
            self._handle(start, status)
        elif newest < attempt and fate is None:  # its guard was killed before it began
            self._pending.appendleft(start)
        elif has_said_so or newest < attempt or (newest == attempt and not has_owner):
            self._handle(start, self._declare(start, status, fate))
        else:
            self._elsewhere[name] = start.job

    def _declare(self, start: Try, status: Status, fate: Status | None) -> Status:
        """Write the status of a job whose watcher could not: it was killed, or the folder cannot be written."""
        if status.attempt < start.attempt:
            status = jobs.next_attempt(status, start.attempt)
        fate = fate or Status("failed", cause=jobs.LOST, detail="the process that watched over the job was killed")
        status.state, status.cause, status.detail, status.ended = fate.state, fate.cause, fate.detail, time.time()
        try:
            os.makedirs(self.folder(start.job), exist_ok=True)
            jobs.write_status(self.folder(start.job), status)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            status.state, status.cause, status.detail = "failed", jobs.FOLDER, fate.detail or str(error)
        return status

    def _handle(self, start: Try, status: Status) -> None:
        """Count the end of a job, or give it another try."""
        name = start.job.name
        if not status.is_settled and not self._is_ending:
            again_alone = status.cause == jobs.OUT_OF_MEMORY and self.engine.shares_devices and not start.alone
            is_free = again_alone or status.cause == jobs.PREEMPTED  # the job is not to blame
            if is_free or (status.may_help_to_retry and self._retries[name] < self.rules.retries):
                self._retries[name] += not is_free
                self._pending.append(Try(start.job, status.attempt + 1, start.alone or again_alone))
                return
        self.progress.cancelled += status.state == "stopped" and not status.is_settled
        self._count(start.job, status)
        self._consider_giving_up(status)

    def _count(self, job: Job, status: Status) -> None:
        self.progress.ended[status.state] += 1
        self.progress.seconds += [status.seconds] if status.state == "done" and status.seconds else []
        for call in self.on_finished:
            call(job, status)

    def _consider_giving_up(self, status: Status) -> None:
        """Stop when the first jobs all die of one cause: the other ones would too."""
        if self.progress.ended["done"]:
            self._first_deaths = [""]  # from now on failures are news about single configurations
        elif status.state == "failed" and self._first_deaths != [""]:
            # Numbers differ between jobs (addresses, sizes, times); the cause is the rest.
            self._first_deaths.append(re.sub(r"0x[0-9a-f]+|[0-9.]+", "#", status.reason))
            if len(self._first_deaths) == self.rules.stop_after and len(set(self._first_deaths)) == 1:
                count = len(self._first_deaths)
                self.progress.gave_up = f"the first {count} jobs died of the same cause ({status.reason})"
                self.engine.stop_all(now=False)

    def _check_elsewhere(self) -> None:
        """Look after the jobs that another process runs; take over those that it left unfinished."""
        if self._elsewhere and time.monotonic() - self._elsewhere_check >= ELSEWHERE_CHECK_S:
            self._elsewhere_check = time.monotonic()
            for job in list(self._elsewhere.values()):
                self._look(job, Status())
        self.progress.elsewhere = len(self._elsewhere)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM ends all jobs with their grace time, the second at once."""

        def interrupt(*_: object) -> None:
            self._interrupts += 1
            self.progress.interrupted = True
            self.engine.wake()  # the loop does the rest: a handler must not write into a half-written pipe

        is_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
        before = [signal.signal(number, interrupt) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
