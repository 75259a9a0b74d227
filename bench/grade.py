"""How long grading takes: one complete submission, one unfilled starter, a class one by one and two at a time.

    python -m bench.grade                       # all, about 40 minutes on two cores
    python -m bench.grade --only complete starter
    python -m bench.grade --quick               # two starters as the class: shows that it works, says nothing

Goals: complete 120 s, starter 20 s, the class 1.7 times as fast with --jobs 2. Exit code 1 if one is not met.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.table import show_setting
from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PART_1 = ("classification_models.py", "classification_train.py")
PART_2 = ("segmentation_models.py", "segmentation_train.py")
PARTS = ("complete", "starter", "class")


def build_parser() -> OneLineParser:
    """The flags of this benchmark."""
    parser = OneLineParser(prog="python -m bench.grade", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--submissions", type=in_range(int, 2), default=20, help="size of the class")
    parser.add_argument("--quick", action="store_true", help="no complete submission, a class of two starters")
    return parser


def run(*words: object) -> float:
    """Seconds of a command that must succeed."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise UserError(f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stderr[-500:]}")
    return time.monotonic() - started


def make_class(folder: Path, count: int, starter: Path, quick: bool) -> Path:
    """Submissions that differ in a comment: Part 1 of the reference with an empty Part 2, or (quick) starters."""
    for number in range(count):
        target = folder / f"student{number:02d}"
        target.mkdir(parents=True)
        for name in PART_1 + PART_2:
            text = ((ROOT if name in PART_1 and not quick else starter) / name).read_text()
            (target / name).write_text(f"{text}\n# submission {number}\n")
    return folder


def grade(submission: Path, folder: Path, name: str, goal_s: float) -> bool:
    """Grade one submission and say how long it took."""
    seconds = run("staff.grade", submission, "--out", folder / f"{name}.json")
    results = json.loads((folder / f"{name}.json").read_text())
    met = seconds <= goal_s
    layers = ", ".join(results["sandbox"]["in_force"])
    print(f"{name:<10} {seconds:6.1f} s   score {results['score']:g}   ({layers})   goal {goal_s:g} s: {_word(met)}")
    return met


def _word(met: bool) -> str:
    return "met" if met else "NOT MET"


def grade_class(folder: Path, out: Path, count: int) -> bool:
    """Grade a class with one and with two jobs."""
    seconds = {jobs: run("staff.grade_class", folder, "--jobs", jobs, "--out", out / str(jobs)) for jobs in (1, 2)}
    ratio = seconds[1] / seconds[2]
    met = ratio >= 1.7
    print(
        f"{'class':<10} {count} submissions: {seconds[1]:.0f} s one by one, {seconds[2]:.0f} s with --jobs 2: "
        f"{ratio:.2f} times as fast   goal 1.7: {_word(met)}"
    )
    return met


def main() -> int:
    """Run the parts."""
    arguments = build_parser().parse_args()
    show_setting("Seconds of the wall clock for grading Project 2, from the command's start to its end.")
    met = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        starter = folder / "starter"
        run("staff.make_starter", "--assignment", "project2", "--out", starter)
        if "complete" in arguments.only and not arguments.quick:
            complete = folder / "complete"
            complete.mkdir()
            for path in [
                *(ROOT / name for name in PART_1 + PART_2),
                *(ROOT / "staff/assignments/project2/checkpoints").glob("*.pt"),
            ]:
                shutil.copy(path, complete)
            met.append(grade(complete, folder, "complete", 120))
        if "starter" in arguments.only:
            met.append(grade(starter, folder, "starter", 20))
        if "class" in arguments.only:
            count = 2 if arguments.quick else arguments.submissions
            school = make_class(folder / "class", count, starter, arguments.quick)
            met.append(grade_class(school, folder / "grades", count))
    return 0 if all(met) or arguments.quick else 1


if __name__ == "__main__":
    run_script(main)
