"""`python -m staff.attacks`: grade every attack in every sandbox layer that this machine offers, and print a table.

Law: no attack scores more than the unfilled starter; the grader ends in time and says what happened; no process, no
file and no changed mode is left behind, and nothing was sent over the network. Exit code 0 if all of that holds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from staff.grader import grade, processes, sandbox
from staff.quality.attacks.corpus import Attack, read_corpus, together
from toolkit.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
LAYERS = ("bwrap", "user", "limits")
TIME_LIMIT_S = 800.0  # a complete submission takes two minutes on two idle cores; three graders share them here
QUICK_S = 6.0  # for one question to the student's process in the quick form
WATCHED = (
    "/tmp",
    "/var/tmp",
    "/dev/shm",
    "/run",
    "/run/lock",
    "/root",
    "/home",
    "/etc",
    str(ROOT),
    str(ROOT / "staff"),
)


@dataclass
class Verdict:
    """What became of one attack in one layer. `broken` lists every breach of the law."""

    name: str
    layer: str
    score: float
    seconds: float
    says: str
    broken: list[str] = field(default_factory=list)


class Listener:
    """A server on loopback that notes whether anything from a sandbox reached it."""

    def __enter__(self) -> Listener:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.visitors = 0
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.server.accept()[0].close()
                self.visitors += 1

    def __exit__(self, *_: object) -> None:
        self.server.close()


def build_starter(folder: Path) -> Path:
    """The unfilled starter, made by the command that makes it for students."""
    target = folder / "starter"
    command = [sys.executable, "-m", "staff.make_starter", "--assignment", "project2", "--out", str(target)]
    made = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if made.returncode:
        raise UserError(f"the starter could not be made: {made.stderr.strip()[-300:]}")
    return target


def modes() -> dict[str, int]:
    """Modes of what `chmod_results` and its like would change."""
    return {
        path: os.stat(path).st_mode
        for path in (*WATCHED, str(ROOT / "staff/student_side/worker.py"))
        if os.path.exists(path)
    }


class Run:
    """One attack, graded in a forked child, so that the imports of the grader are paid once."""

    def __init__(self, attack: Attack | None, layer: str, starter: Path, folder: Path, port: int, quick: bool) -> None:
        self.attack, self.layer, self.folder, self.quick = attack, layer, folder, quick
        self.mark, self.started = secrets.token_hex(8), time.monotonic()
        self.out = folder / "out"
        self.out.mkdir(parents=True)
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = self._child(starter, port)
            finally:
                os._exit(code)

    def _child(self, starter: Path, port: int) -> int:
        """Write the submission, grade it, keep what the grader said."""

        submission = starter
        if self.attack is not None:
            submission = self.folder / "submission"
            words = {"ROOT": ROOT, "OUT": self.out, "GRADER": os.getpid(), "PORT": port, "MARK": self.mark}
            words |= {"KILL_ALL": self.layer == "bwrap", "SAME_USER": self.layer == "limits"}
            self.attack.write(submission, starter, words)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            arguments = [str(submission), "--out", str(self.out / "results.json"), "--require", self.layer]
            quick = ["--request_s", str(QUICK_S), "--restarts", "1"] if self.quick else []
            code = grade.main([*arguments, "--threads", "1", *quick])
        (self.out / "said.txt").write_text(said.getvalue())
        return code

    def finish(self, status: int, starter_score: float) -> Verdict:
        """Look at what the grader wrote and at what was left behind."""
        seconds, broken = time.monotonic() - self.started, []
        code = os.waitstatus_to_exitcode(status)
        results, said = {}, ""
        with contextlib.suppress(OSError, ValueError):
            said = (self.out / "said.txt").read_text()
            results = json.loads((self.out / "results.json").read_text())
        score = float(results.get("score", 0)) + float(results.get("extra", 0))
        if score > starter_score:
            broken.append(f"GAINED {score - starter_score:g} points")
        if code not in (0, 2) or not said.strip():
            broken.append(f"the grader ended with status {code} and said {said.strip()[-80:]!r}")
        if results and results["staff_only"]["grader_errors"]:
            broken.append(f"grader error: {results['staff_only']['grader_errors'][0][:100]}")
        if results and results["sandbox"]["layer"] != self.layer:
            broken.append(f"ran in layer {results['sandbox']['layer']}")
        broken += [f"left {path}" for path in self._left_files()]
        return Verdict(self._name(), self.layer, score, seconds, _what_happened(results, said), broken)

    def _name(self) -> str:
        return self.attack.name if self.attack else "(the starter)"

    def _left_files(self) -> list[str]:
        found = [str(path) for path in self.out.iterdir() if path.name not in ("results.json", "said.txt")]
        for folder in WATCHED:
            with contextlib.suppress(OSError):
                names = [name for name in os.listdir(folder) if self.mark in name or name == "LEFT-pickle-checkpoint"]
                found += [f"{folder}/{name}" for name in names]
                for name in names:  # reported; now away with it
                    os.unlink(f"{folder}/{name}")
        return found


def _what_happened(results: dict, said: str) -> str:
    """The first thing that the results say against the submission."""
    for todo in results.get("todos", []):
        for check in todo["checks"]:
            if check["status"] == "failed" and check["message"]:
                return f"{todo['id']}: {' '.join(check['message'].split())[:70]}"
    if results:
        return f"TODO {results['todos'][0]['id']} {results['todos'][0]['status']}"
    return " ".join(said.split())[:76]


class Runner:
    """Runs attacks, `jobs` at a time, and watches for processes that outlive their grader."""

    def __init__(self, jobs: int, folder: Path, starter: Path, port: int, quick: bool) -> None:
        self.jobs, self.folder, self.starter, self.port, self.quick = jobs, folder, starter, port, quick
        self.active: dict[int, Run] = {}
        self.verdicts: list[Verdict] = []

    def all(self, plan: list[tuple[Attack | None, str]], starter_score: float, show) -> None:
        """Grade the whole plan; `show` gets each verdict as it comes."""
        waiting = list(plan)
        while waiting or self.active:
            while waiting and len(self.active) < self.jobs:
                attack, layer = waiting.pop(0)
                run = Run(attack, layer, self.starter, self.folder / secrets.token_hex(4), self.port, self.quick)
                self.active[run.pid] = run
            self._collect(starter_score, show)

    def _collect(self, starter_score: float, show) -> None:

        for pid, run in list(self.active.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            late = time.monotonic() - run.started > TIME_LIMIT_S
            if not done and late:
                os.kill(pid, signal.SIGKILL)
                done, status = os.waitpid(pid, 0)
            if not done:
                continue
            del self.active[pid]
            verdict = run.finish(status, starter_score)
            if late:
                verdict.broken.append(f"the grader did not end within {TIME_LIMIT_S:.0f} s")
            verdict.broken += self._left_processes(processes)
            self.verdicts.append(verdict)
            show(verdict)
            _remove(run.folder)
        time.sleep(0.05)

    def _left_processes(self, processes) -> list[str]:
        """Orphans become our children; what hangs below no active run was left behind. They are ended."""
        left = processes.strays(set(self.active))
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return [f"left {len(left)} processes running"] if left else []


def _remove(folder: Path) -> None:
    for parent, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            os.chmod(parent, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    """Entry point; 0 if no attack gained anything and the law held."""
    parser = argparse.ArgumentParser(prog="python -m staff.attacks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only these attacks (default: all)")
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS), help="after the names")
    parser.add_argument("--starter", type=Path, help="folder with an unfilled starter (default: one is made)")
    parser.add_argument(
        "--quick", action="store_true", help="one layer each but for those on the machine; short timeouts"
    )
    parser.add_argument("--jobs", type=int, default=2, help="attacks graded at the same time (default 2)")
    arguments = parser.parse_args(argv)
    corpus = [a for a in read_corpus() if not arguments.names or a.name in arguments.names]
    unknown = set(arguments.names) - {attack.name for attack in corpus}
    if unknown or not corpus:
        parser.error(f"no such attack: {', '.join(sorted(unknown)) or '(the choice is empty)'}")
    return run(corpus, arguments.layers, arguments.jobs, arguments.starter, arguments.quick)


def plan_of(corpus: list[Attack], layers: list[str], quick: bool) -> list[tuple[Attack, str]]:
    """Every attack in every layer. Quick: every attack in the strongest layer, those on the machine in all others.

    There the quiet ones are one submission: grading a submission costs seconds, and what one of them does is seen
    whichever others are there; without `--quick` the culprit is named.
    """
    if not quick:
        return [(attack, layer) for layer in layers for attack in corpus]
    system = [attack for attack in corpus if "system" in attack.tags]
    quiet = [attack for attack in system if "quiet" in attack.tags]
    joined = [together(quiet)] if len(quiet) > 1 else quiet
    others = joined + [attack for attack in system if attack not in quiet]
    return [(attack, layers[0]) for attack in corpus] + [(a, layer) for layer in layers[1:] for a in others]


def run(corpus: list[Attack], layers: list[str], jobs: int, starter: Path | None = None, quick: bool = False) -> int:
    """Grade `corpus` in every layer that is available and print the table."""
    import torch  # noqa: F401 - imported once, before the runs are forked

    from staff.grader import training_checks  # noqa: F401

    processes.guard_grader()
    available = []
    for layer in layers:
        reason = sandbox.check_layer(layer)
        print(f"layer {layer} not available: {reason}" if reason else f"layer {layer} available", flush=True)
        available += [] if reason else [layer]
    before, folder = modes(), Path(tempfile.mkdtemp(prefix="attacks-"))
    folder.chmod(0o755)

    def show(verdict: Verdict) -> None:
        note = "; ".join(verdict.broken) or verdict.says
        mark = "BROKEN" if verdict.broken else "ok"
        row = f"{verdict.name:<26} {verdict.layer:<7} {verdict.score:5.2f} {verdict.seconds:5.0f} s  {mark:<7} {note}"
        print(row, flush=True)

    try:
        with Listener() as listener:
            runner = Runner(jobs, folder, starter or build_starter(folder), listener.port, quick)
            runner.all([(None, available[0])], 0.0, show)
            starter_score = runner.verdicts[0].score
            runner.all(plan_of(corpus, available, quick), starter_score, show)
            visitors = listener.visitors
    finally:
        _remove(folder)
    changed = [path for path, mode in modes().items() if before.get(path) != mode]
    for problem in [f"the network was reached {visitors} times"] * bool(visitors) + [f"mode of {p}" for p in changed]:
        print(f"BROKEN: {problem}")
    runs = [v for v in runner.verdicts if v.name != "(the starter)"]
    gained = {v.name for v in runs if v.score > starter_score}
    broken = sum(bool(v.broken) for v in runner.verdicts) + bool(visitors) + bool(changed)
    print(f"{len(runs)} runs in {len(available)} layers ({', '.join(available)}); {broken} broke the law")
    names = {v.name for v in runs} - {"together"}  # the attacks in it were also made alone
    print(f"{len(names)} attacks, {len(gained)} gained")
    return 1 if gained or broken or not available else 0
