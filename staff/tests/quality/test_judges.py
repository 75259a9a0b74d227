"""The forked child in which a judge works, and what it makes of a submission that ends it."""

from __future__ import annotations

import os
import signal
import time

import pytest

from staff.quality import judges


def test_a_child_answers_and_leaves_this_process_alone(tmp_path):
    def work():
        os.environ["CHILD"] = "yes"
        os.chdir("/")
        print("words")
        return {"1.4": ["line"]}

    here = os.getcwd()
    assert judges.in_child(work, tmp_path / "a.log") == ({"1.4": ["line"]}, "")
    assert (tmp_path / "a.log").read_text() == "words\n"
    assert "CHILD" not in os.environ
    assert os.getcwd() == here


def test_whatever_ends_a_child_is_said(tmp_path):
    def fails():
        raise ValueError("no such thing")

    def leaves():
        print("error: one line")
        raise SystemExit(2)

    assert judges.in_child(fails, tmp_path / "a.log") == (
        None,
        "the process ended with status 1: ValueError: no such thing",
    )
    assert judges.in_child(leaves, tmp_path / "b.log") == (None, "the process ended with status 2: error: one line")
    assert judges.in_child(lambda: os._exit(3), tmp_path / "c.log") == (
        None,
        "the process ended with status 3: no output",
    )
    assert judges.in_child(lambda: os.kill(os.getpid(), 9), tmp_path / "d.log")[1].startswith(
        "the process ended with status -9"
    )


def test_an_endless_loop_ends(tmp_path, monkeypatch):
    def spins():
        while True:
            pass

    said = (None, "no end within 1 s of processor time; an endless loop?")
    assert judges.in_child(spins, tmp_path / "a.log", processor_s=1) == said
    monkeypatch.setattr(judges, "WALL_S", 0.3)
    assert judges.in_child(lambda: time.sleep(60), tmp_path / "b.log", processor_s=1) == said


def test_models_that_show_a_todo():
    assert judges.models_to_train(("1.0", "1.4", "1.5", "2.3", "2.4")) == [
        ("1", "linear"),
        ("1", "mlp"),
        ("2", "unet"),
        ("2", "mlp"),
    ]


def test_a_process_that_died_fails_the_test_that_it_was_busy_with(tmp_path):
    events = tmp_path / "events.jsonl"
    events.write_text(
        '{"event": "start", "todo": "1.4", "test": "t"}\n{"event": "failed", "todo": "1.4", "line": "why"}\n'
        '{"event": "start", "todo": "1.5", "test": "u"}\n'
    )
    died = {"1.4": ["why"], "1.5": ["crash"], "1.6": ["no test was found for it"]}
    assert judges._read_events(events, dict.fromkeys(("1.4", "1.5", "1.6"), "tests/test_x.py"), "crash") == died
    events.write_text('{"event": "unreadable", "file": "tests/test_x.py", "line": "SyntaxError"}\n')
    todos = {"1.4": "tests/test_x.py", "1.5": "tests/test_x.py"}
    assert judges._read_events(events, todos, "") == {"1.4": ["SyntaxError"], "1.5": ["SyntaxError"]}


def test_a_judge_that_is_told_to_end_takes_its_process_with_it(tmp_path, monkeypatch):
    children, fork = [], os.fork

    def noted_fork() -> int:
        children.append(fork())
        return children[-1]

    def told_to_end(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fork", noted_fork)
    monkeypatch.setattr(judges.time, "sleep", told_to_end)
    with pytest.raises(KeyboardInterrupt):
        judges.in_child(signal.pause, tmp_path / "a.log")
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], signal.SIGKILL)
