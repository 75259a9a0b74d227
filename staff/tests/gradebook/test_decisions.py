"""decisions.toml: what was acknowledged is never lost, and what is wrong is named with its line."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from staff.gradebook import decisions
from staff.gradebook.decisions import Decision
from staff.tests.grading_tools import ROOT
from toolkit.errors import UserError

WHEN = datetime(2027, 3, 14, 10, 20, tzinfo=timezone.utc)
GOOD = {
    "student": '"s1"',
    "assignment": '"project2"',
    "kind": '"override"',
    "todo": '"1.4"',
    "points": "2",
    "reason": '"why"',
    "who": '"ada"',
    "when": "2027-03-14T10:20:00Z",
}
# A process for each name that stands in its input; it appends, and says after each decision that it is acknowledged.
WRITERS = """
import os, sys
from pathlib import Path
from staff.gradebook.decisions import Decision, append
for line in sys.stdin:
    name, count, output = line.split()
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    with open(output, "w") as said:
        for number in range(int(count)):
            decision = Decision("comment", "project2", name, comment=f"{number} " + "x" * 5000, who="ta")
            append(Path(sys.argv[1]), decision)
            print(number, file=said, flush=True)
    os._exit(0)
"""


def table(**changes: str | None) -> str:
    lines = [f"{key} = {value}" for key, value in (GOOD | changes).items() if value is not None]
    return "\n".join(["[[decision]]", *lines, ""])


def test_what_is_appended_is_read_again(tmp_path):
    """Also texts that TOML, an editor or a shell could take for something else; hand-made lines stay."""
    path = tmp_path / "decisions.toml"
    path.write_text("# by hand\n" + table().rstrip())
    texts = ['"""', "'''\n[[decision]]\nkind = 1", "a\\", "\x7f\x00\r\n\t", "é 漢 \u2028 \ud800", "#", "[[decision]]"]
    for number, text in enumerate(texts):
        decisions.append(path, Decision("comment", "project2", f"t{number}", comment=text, who="eve"))
    found = decisions.read(path)
    assert [one.comment for one in found[1:]] == [text.replace("\ud800", "?") for text in texts]
    assert path.read_text().startswith("# by hand\n")
    assert found[0] == Decision(
        "override", "project2", "s1", todo="1.4", points=2.0, reason="why", who="ada", when=WHEN
    )
    assert (found[0].line, found[0].part) == (2, "TODO 1.4")
    assert found[-1].when >= WHEN  # what is appended is never earlier than what is there
    alone = decisions.append(tmp_path / "new.toml", Decision("excuse", "hw5", team="blue", reason="ill", who="eve"))
    assert abs(alone.when - datetime.now(timezone.utc)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("changes", "line", "message"),
    [
        ({"kind": '"overide"'}, 4, "kind is 'overide'; allowed: override, comment, extension"),
        ({"points": '"2"'}, 6, "points is '2'; allowed: a number"),
        ({"points": "nan"}, 6, "points is nan"),
        ({"points": "true"}, 6, "points is True"),
        ({"points": None}, 1, "points is missing; override needs assignment, who, when, points, reason"),
        ({"reason": '" "'}, 7, "reason is missing"),
        ({"when": "2027-03-14T10:20:00"}, 9, "a time with its zone"),
        ({"when": '"yesterday"'}, 9, "when is 'yesterday'"),
        ({"student": None}, 1, "a student or a team"),
        ({"team": '"t"'}, 10, "a student or a team"),
        ({"check": '"f::t"'}, 5, "override with todo and check"),
        ({"kind": '"extension"', "days": "3"}, 5, "extension with todo; allowed: none of"),
        ({"kind": '"extension"', "days": "-1", "todo": None}, 9, "days is -1"),
        ({"studnet": '"x"'}, 10, "unknown key 'studnet'; allowed: kind"),
        ({"todo": "1.4"}, 5, 'todo is 1.4; allowed: a text in quotes, as todo = "1.4"'),
    ],
)
def test_a_bad_entry_is_named_with_its_line(tmp_path, changes, line, message):
    path, before = tmp_path / "decisions.toml", table(comment='"""\n[[decision]]\nkind = 3\n"""')
    path.write_text(before + table(**changes))
    with pytest.raises(UserError, match=f"decisions.toml, line {before.count(chr(10)) + line}: ") as caught:
        decisions.read(path)
    assert message in str(caught.value)
    with pytest.raises(UserError, match="line"):  # and nothing is added behind it
        decisions.append(path, Decision("excuse", "project2", "s1", reason="ill", who="ada"))
    assert path.read_text() == before + table(**changes)


@pytest.mark.parametrize(("text", "message"), [("[[decision]]\nkind = '''x", "line 1"), ("a = 1\n", "line 1: allowed")])
def test_a_file_that_is_no_list_of_decisions(tmp_path, text, message):
    (tmp_path / "decisions.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        decisions.read(tmp_path / "decisions.toml")


def test_a_bad_decision_is_not_written(tmp_path):
    path = tmp_path / "decisions.toml"
    with pytest.raises(UserError, match="the decision, line 1: reason is missing"):
        decisions.append(path, Decision("override", "project2", "s1", points=3, who="ada"))
    assert not path.exists()
    assert decisions.read(path) == []


def test_the_later_decision_counts(tmp_path):
    path = tmp_path / "decisions.toml"
    later, other = "2027-03-15T00:00:00Z", {"todo": '"1.5"'}
    path.write_text(
        table(points="3", when=later)  # first in the file and last in time
        + table(points="1")
        + table(**other)
        + table(points="9", **other)  # the same time: the file's order
        + table(student=None, team='"blue"', todo=None, points="40", when=later)
        + table(student='"s2"', points="7")
        + table(kind='"excuse"', todo=None, points=None)
        + table(kind='"excuse"', todo=None, points=None, reason=None, withdrawn="true", when=later)
    )
    found = decisions.in_force(decisions.read(path), "project2", "s1", "blue")
    assert sorted((one.kind, one.todo, one.points) for one in found) == [
        ("override", "", 40.0), ("override", "1.4", 3.0), ("override", "1.5", 9.0),
    ]  # fmt: skip
    assert [one.points for one in decisions.in_force(decisions.read(path), "project2", "s1")] == [3.0, 9.0]
    assert decisions.in_force(decisions.read(path), "hw5", "s1", "blue") == []


def of(path: Path, name: str) -> list[int]:
    return [int(one.comment.split()[0]) for one in decisions.read(path) if one.student == name]


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_two_processes_and_twenty_kills_lose_nothing(tmp_path):
    """A process that is not killed appends all the while; of the killed ones all that was acknowledged is there."""
    path, moment = tmp_path / "decisions.toml", random.Random(20)
    words = [sys.executable, "-c", WRITERS, str(path)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:

        def start(name: str, count: int) -> tuple[int, Path]:
            print(name, count, tmp_path / name, file=writers.stdin, flush=True)
            return int(writers.stdout.readline()), tmp_path / name

        _, steady = start("steady", 60)
        for number in range(20):
            pid, said = start(f"killed{number}", 10_000)
            wait_for(lambda said=said: said.exists() and said.stat().st_size > 0)
            time.sleep(moment.uniform(0, 0.03))
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
            acknowledged, found = said.read_text().count("\n"), of(path, f"killed{number}")
            assert found == list(range(len(found)))
            assert len(found) in (acknowledged, acknowledged + 1)  # the last may be written and not yet acknowledged
        wait_for(lambda: steady.read_text().count("\n") == 60)
        writers.stdin.close()
    assert of(path, "steady") == list(range(60))
    decisions.append(path, Decision("excuse", "project2", "s1", reason="ill", who="ada"))
    assert not list(tmp_path.glob(".decisions.toml.*.tmp"))
