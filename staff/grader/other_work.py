"""What is handed in besides code: figures, written answers, the history of the repository.

Pictures and texts come from students: they are read here with limits, and nothing of them is run.
"""

from __future__ import annotations

import io
import re
import tokenize
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from staff.grader.client import clean
from staff.grader.submission import Submission

SIDES = (150, 6000)  # pixels of a figure that can be read and that a page can show
MIN_SPREAD = 3.0  # standard deviation of the grey values; an empty plot with axes has about 10
ANSWER = re.compile(r"(?:#\s*)?ANSWER (\d+\.\d+):\s*(.*)")


def fault_of_figure(content: bytes) -> str:
    """What is wrong with a PNG, '' if nothing is: it must be one, of sensible size, and not blank."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            width, height = picture.size  # from the header; nothing is unpacked yet
            if not SIDES[0] <= min(width, height) or not max(width, height) <= SIDES[1]:
                return f"has {width} x {height} pixels; expected {SIDES[0]} to {SIDES[1]} a side"
            spread = float(np.asarray(picture.convert("L"), dtype=np.float32).std())
    except Exception as error:  # Pillow raises whatever the damage makes it raise
        return f"is not a readable PNG ({clean(str(error), 80) or type(error).__name__})"
    return "is blank" if spread < MIN_SPREAD else ""


def answers_in(source: str) -> dict[str, str]:
    """{'1.2': text} of the answers in comments and docstrings: a line that starts with ANSWER, and those right below.

    Docstrings of the starter ask their questions in that form: what ends with a question mark is no answer, and of
    several with one number the longest counts.
    """
    found: list[list[str]] = []
    goes_on, last_row = False, -1
    try:
        for row, line in _prose_lines(source):
            match = ANSWER.match(line)
            if match:
                found.append([match[1], match[2].strip()])
            elif goes_on and line and row == last_row + 1:
                found[-1][1] += " " + line.lstrip("#").strip()
            goes_on = bool(match) or (goes_on and bool(line) and row == last_row + 1)
            last_row = row
    except (tokenize.TokenError, SyntaxError, ValueError):
        pass  # what came before the fault counts; the code itself is judged elsewhere
    texts: dict[str, str] = {}
    for number, text in found:
        if text.endswith("?"):  # the question itself, in the docstring that the starter has
            continue
        texts[number] = max(texts.get(number, ""), clean(text.strip(), 5000), key=len)
    return texts


def _prose_lines(source: str) -> Iterator[tuple[int, str]]:
    """(row, text) of each comment, which keeps its #, and each line in triple quotes; '' where such a string ends."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
        elif token.type == tokenize.STRING and token.string.lstrip("rRuUbB")[:3] in ('"""', "'''"):
            for row, line in enumerate(token.string.lstrip("rRuUbB").strip("\"'").split("\n"), token.start[0]):
                yield row, line.strip()
            yield token.end[0], ""


@dataclass
class Commit:
    """One commit of the submission: time in seconds since 1970, subject, how many lines of graded files it changed."""

    time: int
    subject: str
    files: list[str] = field(default_factory=list)
    lines: int = 0


def read_history(log: bytes, graded: Sequence[str]) -> list[Commit]:
    """Commits without merges, oldest first, of what git printed (`submission.LOG`)."""
    commits = []
    for record in log.decode("utf-8", "replace").split("\x01")[1:]:
        head, *rows = record.split("\n")
        time, _, subject = head.partition("\x02")
        seconds = int(time) if re.fullmatch(r"\d{1,12}", time, re.ASCII) else 0
        commit = Commit(seconds, clean(subject, 200))
        for added, removed, name in (row.split("\t", 2) for row in rows if row.count("\t") >= 2):
            commit.files.append(clean(name, 200))
            if any(name == file or name.endswith("/" + file) for file in graded):
                commit.lines += sum(int(n) for n in (added, removed) if re.fullmatch(r"\d{1,9}", n, re.ASCII))
        commits.append(commit)
    return commits


def judge_history(commits: list[Commit] | None, rules: dict[str, Any], why_none: str = "") -> list[dict[str, Any]]:
    """The two verdicts on the history: [{'title', 'deduction', 'reason'}], deductions as points from 0 up.

    A meaningful commit changes at least `min_lines` lines of graded files. A clear subject has two words or more, ten
    letters or more, and is not one of the words that say nothing ("update", "fix", "final", "asdf"). Where there is
    no history to judge (`commits` is None), nothing is deducted: a person decides.
    """
    points = rules["deduction"]
    titles = ("several meaningful commits", "clear commit messages")
    if commits is None:
        reason = f"not available: {why_none}; costs nothing by itself, a person looks at it"
        return [{"title": title, "deduction": 0, "reason": reason} for title in titles]
    # The first commit brings the starter, which is not the student's work.
    own = [commit for commit in commits[1:] if commit.files]
    meaningful = [commit for commit in own if commit.lines >= rules["min_lines"]]
    unclear = [commit.subject or "(empty)" for commit in own if not is_clear(commit.subject)]
    hours = (max(c.time for c in own) - min(c.time for c in own)) / 3600 if own else 0.0
    facts = f"{len(commits)} commits, {len(meaningful)} of them after the first change graded code"
    few = len(meaningful) < rules["min_commits"]
    reason = f"{facts}, over {hours:.1f} hours; {rules['min_commits']} are expected"
    share = len(unclear) / len(own) if own else 1.0
    examples = "; ".join(f"{subject!r}" for subject in unclear[:3])
    told = f"{len(unclear)} of {len(own)} messages after the first do not say what was done"
    return [
        {"title": titles[0], "deduction": points if few else 0, "reason": reason},
        {
            "title": titles[1],
            "deduction": points if share > rules["max_unclear"] else 0,
            "reason": told + (f": {examples}" if examples else ""),
        },
    ]


EMPTY_WORDS = frozenset(
    "a again and asdf bug change changed changes code commit done edit file files final finally finished "
    "fix fixed fixes hw hw5 homework it last minor more my new now of ok part please some stuff "
    "submission submit temp test the things this to todo try update updated updates upload version wip "
    "work working".split()
)


SYLLABLES = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # Chinese, Japanese, Korean


def is_clear(subject: str) -> bool:
    """Whether a message says what was done: two words or more that carry meaning, ten letters or more.

    Scripts without spaces, whose signs carry more than a letter: six signs or more. Marks that belong to letters (the
    vowels of Hindi or Thai) are part of their words.
    """
    if len(SYLLABLES.findall(subject)) >= 6:
        return True
    text = "".join(c if unicodedata.category(c)[0] in "LM" else " " for c in subject.lower())
    words = [word for word in text.split() if len(word) >= 2]
    return sum(map(len, words)) >= 10 and sum(word not in EMPTY_WORDS for word in words) >= 2


def add_verdicts(results: dict[str, Any], submission: Submission, rules: dict[str, Any]) -> None:
    """Add the history's verdict (as an entry with points below 0) and the answers for the human grader to `results`."""
    files = submission.files
    graded = [name for name in files if name.endswith(".py")]
    commits = None if submission.log is None else read_history(submission.log, graded)
    results["for_a_person"] = [f"history not available: {submission.no_log}"] if commits is None else []
    verdicts = judge_history(commits, rules, submission.no_log)
    deduction = sum(verdict["deduction"] for verdict in verdicts)
    checks = [
        {
            "test": "history",
            "title": verdict["title"],
            "status": "failed" if verdict["deduction"] else "passed",
            "message": f"-{verdict['deduction']:g}: {verdict['reason']}" if verdict["deduction"] else verdict["reason"],
            **{"weight": 1.0, "core": False, "reported": False, "needs": [], "hint": "", "frames": []},
            **{"seconds": 0.0, "measured": []},
        }
        for verdict in verdicts
    ]
    entry = {"id": "git", "title": "history of the repository", "part": "Git workflow", "extra": False}
    status = "failed" if deduction else "passed"
    results["todos"].append({**entry, "points": -deduction, "max": 0, "status": status, "checks": checks})
    results["score"] = round(max(0.0, results["score"] - deduction), 2)
    texts = [files[name].decode("utf-8", "replace") for name in graded]
    results["answers"] = {number: text for source in texts for number, text in sorted(answers_in(source).items())}
