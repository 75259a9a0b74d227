"""bench.gpu keeps what was measured: a section that fails, hangs or has no time left costs its own rows alone."""

from __future__ import annotations

import importlib
import time
from pathlib import Path

import psutil
import pytest

from bench.gpu import commands, plan, rows
from bench.gpu.plan import Bench, Section

SECTIONS = """
import subprocess, sys, time

def works(bench):
    bench.add("a figure", "12 images/s", "a | setting")

def breaks(bench):
    bench.add("before", "1 s")
    raise ValueError("no such thing")

def hangs(bench):
    bench.add("before", "2 s")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (bench.work / "child").write_text(str(child.pid))
    time.sleep(600)

def dies(bench):
    import os
    os._exit(9)
"""


@pytest.fixture
def sections(tmp_path, monkeypatch):
    """name → a section of the module above, in a process that finds it."""
    (tmp_path / "made_sections.py").write_text(SECTIONS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda name, limit_s=60.0: Section(name, limit_s, "made_sections")


def run(sections: list[Section], folder: Path, limit_s: float = 60.0) -> rows.Report:
    report = rows.Report(folder / "out" / "gpu.md", command="python -m bench.gpu", tiny=False)
    work = folder / "work"
    work.mkdir()
    plan.run_all(sections, work, report, limit_s=limit_s, tiny=False)
    return report


@pytest.mark.parametrize("section", plan.SECTIONS, ids=lambda section: section.name)
def test_each_section_is_a_function_that_can_be_imported(section: Section) -> None:
    """They are looked up by name in a process of their own, where no linter sees what a rename broke."""
    assert callable(getattr(importlib.import_module(section.module), section.name))


def test_a_section_that_fails_leaves_a_row_and_the_next_one_runs(sections, tmp_path):
    report = run([sections("breaks"), sections("dies"), sections("works")], tmp_path)
    assert [(row.section, row.what, row.result) for row in report.rows] == [
        ("breaks", "before", "1 s"),
        ("breaks", "the rest", "failed: ValueError: no such thing"),
        ("dies", "the rest", "failed: exit code 9"),
        ("works", "a figure", "12 images/s"),
    ]
    assert len(report.failures()) == 2
    table, as_json, log = (path.read_text() for path in report.files())
    assert "| works | a figure | 12 images/s | a / setting |" in table
    assert "no such thing" in as_json
    assert "Traceback" in log


def test_a_section_that_hangs_is_stopped_with_all_that_it_started(sections, tmp_path):
    report = run([sections("hangs", 20.0), sections("works")], tmp_path)
    assert [row.result for row in report.rows] == ["2 s", "failed: stopped after 20 s", "12 images/s"]
    child = int((tmp_path / "work" / "child").read_text())
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(pid: int) -> bool:
    """False for a process that is gone, or has ended and waits for its parent to notice."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_without_time_a_section_is_named_as_not_run(sections, tmp_path):
    report = run([sections("works")], tmp_path, limit_s=plan.LEAST_S - 1)
    assert [row.result for row in report.rows] == ["not run: no time left"]
    assert not report.failures()


def test_every_section_of_the_plan_exists():
    for section in plan.SECTIONS:
        text = Path(plan.ROOT, *section.module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
        assert f"def {section.name}(bench: Bench)" in text


def test_a_row_that_a_kill_cut_off_is_left_out(tmp_path):
    path = tmp_path / "rows"
    rows.append(path, rows.Row("a", "b", "1 s"))
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"section": "a", "wh')
    assert rows.read(path) == [rows.Row("a", "b", "1 s")]


def test_a_command_that_fails_gives_its_last_line_and_one_that_hangs_is_stopped(tmp_path):
    bench = Bench("mains", tmp_path, 60, tiny=True)
    with commands.attempt(bench, "wrong flag"):
        commands.python(bench, "classification_main.py", "--no_such_flag")
    with commands.attempt(bench, "slow"):
        commands.python(bench, "-c", "import time; time.sleep(600)", limit_s=1)
    wrong, slow = (row.result for row in rows.read(tmp_path / "mains.rows"))
    assert wrong.startswith("failed: exit code 2: error: unrecognized arguments: --no_such_flag")
    assert slow.startswith("failed: stopped after 1 s")


def test_a_long_run_that_was_cut_says_where(tmp_path):
    folder = tmp_path / "long-classification"
    folder.mkdir()
    (folder / "history.csv").write_text("epoch,val_acc\n1,0.5\n2,0.75\n3,0.7\n")
    text = commands.cut_short(folder, "classification", "configs/classification_long.json", "stopped after 9 s: x")
    assert text == "cut after 3 of 50 epochs (stopped after 9 s: x): validation accuracy so far 0.7500"
    with pytest.raises(commands.CommandError, match="exit code 1"):
        commands.cut_short(folder, "classification", "configs/classification_long.json", "exit code 1: bad")


def test_a_section_has_less_time_the_longer_it_runs(tmp_path):
    bench = Bench("mains", tmp_path, 5, tiny=True)
    time.sleep(0.05)
    assert 0 < bench.left_s() < 4.96
    assert plan.environment(True)["OMP_NUM_THREADS"] == "1"
