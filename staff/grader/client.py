"""The grader's end of the pipe: asks the student's process and its models, survives whatever they do, believes nothing.

A crash, a timeout or a malformed answer fails the check that asked; the worker is killed and the next check gets a
fresh one. A module whose import failed is not tried again.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from staff.grader import processes
from staff.grader.sandbox import Confined, Limits, Place
from staff.student_side.protocol import Channel, Frame, PeerClosed, PeerTimeout, ProtocolError

STAFF = Path(__file__).resolve().parents[1]
Shape = tuple[int | None, ...]
Expected = Mapping[str, tuple[str, Shape]]


class CheckFailed(AssertionError):
    """A check's verdict in words for the student: what was expected and what came instead; never hidden data."""

    is_about_code = True  # False: the check learnt nothing about how the code works, so hints would mislead


class NothingToCheckError(CheckFailed):
    """What the check needs was not handed in."""

    is_about_code = False


class Incident(CheckFailed):
    """The student's process crashed, hung or answered nonsense; what it was asked for would meet the same end again."""

    is_about_code = False


class StudentError(CheckFailed):
    """The student's code raised an exception. `kind` is its type, `frames` the lines of their files."""

    def __init__(self, kind: str, message: str, frames: list[str], is_about_code: bool = True) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind, self.message, self.frames, self.is_about_code = kind, message, frames, is_about_code


def clean(text: object, limit: int = 1500) -> str:
    """Text of the student's process made harmless: a string, printable, not too long, no terminal codes."""
    text = text if isinstance(text, str) else ""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text[: 4 * limit])
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text.expandtabs(4))[:limit]


# What a request may not leave changed (staff/student_side/state.py); the worker puts it back.
LEFT_BEHIND = {
    "gradients": "switches gradients off and leaves them off; torch.no_grad() as a decorator or in a with statement "
    "ends by itself, torch.set_grad_enabled(False) does not",
    "dtype": "changes PyTorch's default dtype for everything that runs afterwards (torch.set_default_dtype)",
    "autocast": "switches autocast on and leaves it on; use it in a with statement",
}
FIT_CPU_S = 40.0  # seconds of processor time of one training by our own updates
PATIENCE = 5.0  # at most this many times its seconds a request may take when other programs keep the processors busy


@dataclass
class Reply:
    """A checked answer: JSON `result` (not trusted) and the arrays that were asked for."""

    result: dict
    arrays: dict[str, np.ndarray]


@dataclass
class Budget:
    """Seconds for one request and for the whole submission; how often a worker that died is replaced.

    Seconds that a worker waits for a processor, because other programs have them, do not count.
    """

    request_s: float = 60.0
    submission_s: float = 240.0
    restarts: int = 8
    started: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds that the submission may still use."""
        return self.started + self.submission_s - time.monotonic()


class StudentProcess:
    """A worker that is started when needed and replaced when it dies."""

    worker_class = Confined
    channels, num_classes = 3, 9  # of the data set that the student's models are made for; the grader may set others

    def __init__(self, place: Place, layer: str, limits: Limits, budget: Budget, secret_paths: list[str]) -> None:
        self.place, self.layer, self.limits, self.budget, self.secret_paths = place, layer, limits, budget, secret_paths
        self.worker: Confined | None = None
        self.in_force: list[str] = []
        self.restarts = self.request_number = 0
        self.dead_modules: dict[str, str] = {}
        self.failed_imports: dict[str, StudentError] = {}
        self.printed = ""

    def start(self) -> None:
        """Start the worker if none runs. CheckFailed once it has been replaced too often."""
        if self.worker is not None:
            return
        if self.restarts > self.budget.restarts:
            raise Incident(f"your code ended its process {self.restarts} times; no further attempt is made")
        if self.budget.left() <= 0:
            raise Incident(f"the time for the whole submission ({self.budget.submission_s:.0f} s) is used up")
        self.worker = self.worker_class(self.place, self.layer, self.limits, self.secret_paths)
        self.in_force = self.worker.in_force
        self.request("forget", {}, timeout_s=self.limits.start_s)  # loads torch, on our time and not on the import's

    def end(self) -> None:
        """Kill the worker and all it started."""
        if self.worker is not None:
            worker, self.worker = self.worker, None
            worker.end()
            self.printed = clean(worker.printed(), 4000)

    def _give_up(self, why: str, late: bool = False) -> None:
        """End the worker after an incident and fail the check that met it; if it was late, say where it was."""
        worker = self.worker
        if worker is not None:
            with contextlib.suppress(Exception):
                worker.process.wait(timeout=0.5)
            status = worker.process.poll()
            why = f"{why} ({worker.why_ended})" if worker.why_ended else why
            if status is not None and not worker.why_ended:
                why += f" (exit status {status})"
        self.end()
        self.restarts += 1
        place = last_line(worker.printed(), self.place.tree) if late and worker is not None else ""
        raise Incident(f"{why}; it was at {place}" if place else why)

    def request(
        self, op: str, spec: dict, arrays: Mapping[str, np.ndarray] | None = None, timeout_s: float | None = None
    ) -> Frame:
        """One question, one answer. CheckFailed for every way in which none comes; NameError: there is no such `op`."""
        if op not in operations():
            raise NameError(f"no operation {op!r} in staff/student_side or the assignment's operations.py")
        self.start()
        seconds = min(timeout_s or self.budget.request_s, self.budget.left())
        if seconds <= 0:
            raise Incident(f"the time for the whole submission ({self.budget.submission_s:.0f} s) is used up")
        channel: Channel = self.worker.channel
        self.request_number += 1
        deadline = time.monotonic() + seconds
        try:
            if channel.pending():
                self._give_up("your process sent an unexpected answer")
            header = {"id": self.request_number, "op": op, "args": spec, "seconds": seconds}
            channel.send(Frame(header, dict(arrays or {})), deadline)
            reply = channel.receive(self._deadline_of_answer(seconds, deadline))
        except PeerClosed:
            self._give_up("your code ended the process it ran in")
        except PeerTimeout:
            self._give_up(f"your code did not finish within {seconds:.0f} s", late=True)
        except ProtocolError as error:
            self._give_up(f"your process sent a malformed answer: {clean(str(error), 200)}")
        if reply.header.get("id") != self.request_number or type(reply.header.get("ok")) is not bool:
            self._give_up("your process answered another question than it was asked")
        return reply

    def _deadline_of_answer(self, seconds: float, deadline: float) -> float:
        """Wait until an answer begins or its time is over; the deadline, later by what was lost on a busy machine.

        Time in which the student's process was ready to run and got no processor is not its own, so it does not count.
        """
        pid, channel = self.worker.process.pid, self.worker.channel
        started, before, lost = time.monotonic(), processes.waiting_times(pid), 0.0
        while not channel.stirs(max(0.0, deadline + lost - time.monotonic())):
            more = processes.waited_since(before, pid) - lost
            if more < 0.01 * seconds or lost + more > (PATIENCE - 1) * seconds:
                break
            lost += more
        self.budget.started += min(processes.waited_since(before, pid), time.monotonic() - started)
        return deadline + lost

    def ask(self, op: str, spec: dict, arrays=None, expect: Expected | None = None, timeout_s=None) -> Reply:
        """A request whose arrays must have the dtypes and shapes given. StudentError if the student's code raised."""
        module = spec.get("module")
        if module:
            self.require(module)
        return checked(self.request(op, spec, arrays, timeout_s), expect)

    def require(self, module: str) -> None:
        """Import a module of the submission once per process; one that ended its process is not tried again."""
        if module in self.dead_modules:
            raise Incident(self.dead_modules[module])
        if module in self.failed_imports:
            raise self.failed_imports[module]
        if not (self.place.tree / f"{module.replace('.', '/')}.py").exists():
            raise NothingToCheckError(f"{module.replace('.', '/')}.py was not handed in")
        try:
            reply = self.request("import", {"module": module}, timeout_s=min(15.0, self.budget.request_s))
        except CheckFailed as error:
            self.dead_modules[module] = f"importing {module}.py: {error}"
            raise Incident(self.dead_modules[module]) from None
        if not reply.header["ok"]:
            error = _student_error(reply.header.get("error"))
            message = f"{error.message} (while importing {module}.py)"
            self.failed_imports[module] = StudentError(error.kind, message, error.frames, is_about_code=False)
            raise self.failed_imports[module]


@functools.cache
def operations() -> frozenset[str]:
    """What the worker can be asked, read from its files: "forward", "hw5.cases". A misspelt one is our fault."""
    files = {"": STAFF / "student_side" / "operations.py"}
    files |= {f"{path.parent.name}.": path for path in STAFF.glob("assignments/*/operations.py")}
    texts = {prefix: path.read_text(encoding="utf-8") for prefix, path in files.items()}
    return frozenset(prefix + name for prefix, text in texts.items() for name in re.findall(r"\bop_(\w+)", text))


def checked(reply: Frame, expect: Expected | None) -> Reply:
    """The contents of an answer with the arrays that were asked for; CheckFailed if it has an error or others."""
    if not reply.header["ok"]:
        raise _student_error(reply.header.get("error"))
    _check_left_behind(reply)
    result = reply.header.get("result")
    for name, (dtype, shape) in (expect or {}).items():
        _check_array(name, reply.arrays.get(name), dtype, shape)
    return Reply(result if isinstance(result, dict) else {}, reply.arrays)


def last_line(printed: str, tree: Path) -> str:
    """'file.py:12 in function: code' of the line of the submission that ran when the worker was late.

    printed: what the worker printed, in it what faulthandler wrote of each thread, innermost lines first. "" if no line
    of the submission is there; a submission may forge it, which misleads its own author alone.
    """
    dump = printed.rpartition("Timeout (")[2]
    found = re.search(rf'File "{re.escape(str(tree))}/([\w./-]{{1,200}})", line (\d{{1,7}}) in (\S+)', dump)
    if found is None:
        return ""
    name, number, function = found[1], int(found[2]), found[3]
    path = (tree / name).resolve()
    lines = path.read_text(errors="replace").splitlines() if path.is_relative_to(tree) and path.is_file() else []
    code = f": {lines[number - 1].strip()}" if 0 < number <= len(lines) else ""
    return clean(f"{name}:{number} in {function}{code}", 250)


def _student_error(error: object) -> StudentError:
    error = error if isinstance(error, dict) else {}
    frames = error.get("frames")
    frames = [clean(line, 250) for line in frames[:8]] if isinstance(frames, list) else []
    return StudentError(clean(error.get("type"), 80) or "error", clean(error.get("message")), frames)


def _check_left_behind(reply: Frame) -> None:
    """The check that changed a setting for good fails, and not those after it."""
    left = reply.header.get("left_behind")
    for name in left if isinstance(left, list) else []:
        if isinstance(name, str) and name in LEFT_BEHIND:
            raise CheckFailed(f"your code {LEFT_BEHIND[name]}")


def _check_array(name: str, array: np.ndarray | None, dtype: str, shape: Shape) -> None:
    if array is None:
        raise CheckFailed(f"no {name} came back")
    fits = len(array.shape) == len(shape) and all(w is None or w == g for w, g in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
        raise CheckFailed(f"{name} has shape {array.shape}, expected {wanted}")
    if array.dtype.name != dtype:
        raise CheckFailed(f"{name} has dtype {array.dtype.name}, expected {dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CheckFailed(f"{name} holds NaN or infinite values")


def expect(condition: object, message: str) -> None:
    """Fail the check with words for the student."""
    if not condition:
        raise CheckFailed(message)


def expect_close(got: float, wanted: float | tuple[float, ...], tolerance: float, what: str) -> None:
    """`got` must be within `tolerance` of (one of) the values wanted."""
    values = wanted if isinstance(wanted, tuple) else (wanted,)
    if not any(abs(got - value) <= tolerance for value in values):
        distinct = list(dict.fromkeys(f"{value:.4f}" for value in values))
        raise CheckFailed(f"{what} is {got:.4f}, expected {' or '.join(distinct)}")
