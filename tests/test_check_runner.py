"""The table of `python -m tests`, run as a student runs it, on small courses whose tests crash, hang, wait and pass."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.check_table import ROOT, Clock
from tests.labs.hw5.todos import TODOS as HW5_TODOS
from tests.todos import TODOS

pytestmark = pytest.mark.provided

RUNNER = ("__init__.py", "__main__.py", "check_table.py", "check_plugin.py", "plain_errors.py", "todo.py", "todos.py")
PASSING = "def test(): pass"


def not_started(number: str) -> str:
    return f"def test(): raise NotImplementedError('TODO {number}: do it')"


class Course:
    """A course without torch: the real runner, and one test for each TODO that does what the case asks for."""

    def __init__(self, folder: Path, tests: dict[str, str]) -> None:
        self.folder, self.heads = folder, {}
        self.bodies = {todo.number: tests.get(todo.number, PASSING) for todo in TODOS}
        (folder / "tests").mkdir()
        for name in RUNNER:
            shutil.copy(ROOT / "tests" / name, folder / "tests")
        shutil.copy(ROOT / "pyproject.toml", folder)

    def check(self, *arguments: str) -> tuple[int, dict[str, tuple[str, str, str]], str]:
        """Write the tests and run the table: exit code, {number: (state, points, line)}, all output."""
        for file in {todo.file for todo in TODOS}:
            parts = [f"import pytest\n{self.heads.get(file, '')}\n"]
            for todo in TODOS:
                if todo.file == file:
                    name = f"def test_{todo.marker}"
                    body = self.bodies[todo.number].replace("def test", name, 1)
                    parts.append(f"@pytest.mark.{todo.marker}\n{body}\n")
            (self.folder / file).write_text("\n".join(parts), encoding="utf-8")
        result = subprocess.run(
            [sys.executable, "-m", "tests", *arguments], cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        return result.returncode, rows_of(result.stdout), result.stdout + result.stderr


def rows_of(output: str) -> dict[str, tuple[str, str, str]]:
    """{number: (state, points, the line below the row)}; each row must name its own command."""
    rows, lines = {}, output.splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=False):
        match = re.match(r"(\d+\.\d+) +.*?  +(passing|failing|not started|waiting) +(\d+/\d+) +(.*)$", line)
        if match:
            number, state, points, command = match.groups()
            assert command == f"python -m pytest -m todo_{number.replace('.', '_')}"
            rows[number] = (state, points, below.strip() if below.startswith("     ") else "")
    return rows


@pytest.fixture
def course(tmp_path):
    return lambda **tests: Course(
        tmp_path, {name.removeprefix("todo_").replace("_", "."): t for name, t in tests.items()}
    )


def assert_others_pass(rows: dict[str, tuple[str, str, str]], *exceptions: str) -> None:
    assert set(rows) == {todo.number for todo in TODOS}
    assert {number for number, (state, _, _) in rows.items() if state != "passing"} == set(exceptions)


def test_points_are_those_of_the_grader():
    if not (ROOT / "staff").is_dir():
        return  # a student's copy, where there is nothing to compare with
    settings = ROOT / "staff" / "assignments" / "project2" / "assignment.toml"
    found = re.findall(r'^id = "(\d+\.\d+)"\n(?:.*\n)*?points = (\d+)$', settings.read_text("utf-8"), re.MULTILINE)
    assert {number: int(points) for number, points in found} == {todo.number: todo.points for todo in TODOS}


def all_points(part: int) -> str:
    points = sum(todo.points for todo in TODOS if todo.number.startswith(f"{part}."))
    return f"{points} of {points} points"


def test_all_passing_is_exit_code_0(course):
    code, rows, output = course().check()
    assert code == 0
    assert_others_pass(rows)
    assert rows["1.2"] == ("passing", "5/5", "")
    assert f"{len(TODOS)} passing, 0 failing, 0 not started. Part 1: {all_points(1)}; Part 2: {all_points(2)}" in output


def test_nothing_started(course):
    code, rows, output = course(**{todo.marker: not_started(todo.number) for todo in TODOS}).check()
    assert code == 1
    assert {row[0] for row in rows.values()} == {"not started"}
    assert rows["2.4"] == ("not started", "0/2", "TODO 2.4: do it")
    assert f"0 passing, 0 failing, {len(TODOS)} not started. Part 1: 0 of " in output


def test_every_kind_of_failure_is_told_apart(course):
    asserted = "def test():\n    got = (4, 10)\n    assert got == (4, 9), f'expected shape (4, 9), got {got}'"
    left_over = "def test():\n    import left\n    left.train_epoch()"
    half_done = not_started("1.1") + "\n@pytest.mark.todo_1_1\ndef test_more(): assert False, 'expected more'"
    made = course(
        todo_1_0=asserted,
        todo_1_1=half_done,
        todo_1_2=not_started("1.2"),
        todo_1_3="def test(): [][1]",
        todo_1_4="def test():\n    import mine\n    mine.work()",
        todo_1_5=left_over,
        todo_1_6=not_started("1.2") + "\n@pytest.mark.todo_1_6\n" + not_started("2.10").replace("test", "test_more"),
        todo_2_4="def test(): pytest.fail('expected 1\\nand more')",
        todo_2_5="def no_longer_a_test(): pass",
    )
    (made.folder / "mine.py").write_text("def work():\n    return 1 / 0\n")
    stub = 'raise NotImplementedError("TODO 1.5: do it")'
    (made.folder / "left.py").write_text(
        f'def train_epoch():\n    """Doc."""\n    for _ in [1]:\n        pass\n    {stub}\n'
    )
    code, rows, output = made.check()
    assert code == 1
    assert_others_pass(rows, "1.0", "1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "2.4", "2.5")
    assert rows["1.0"] == ("failing", "0/2", "expected shape (4, 9), got (4, 10)")
    assert rows["1.1"] == ("failing", "0/3", "expected more")
    assert rows["1.2"] == ("not started", "0/5", "TODO 1.2: do it")
    assert rows["1.6"] == ("waiting", "0/5", "waits for TODO 1.2, 2.10")
    place = r"tests/test_todo_1_training.py:\d+"
    assert re.fullmatch(rf"IndexError: list index out of range \({place}\)", rows["1.3"][2])
    assert rows["1.4"][2] == "ZeroDivisionError: division by zero (mine.py:2)"
    assert rows["1.5"] == (
        "failing",
        "0/4",
        "your code runs, but the line raise NotImplementedError(...) is still there; delete it (left.py:5)",
    )
    assert rows["2.4"][2] == "expected 1"
    assert rows["2.5"][2].startswith("no test was found for it")
    assert f"{len(TODOS) - 9} passing, 7 failing, 1 not started, 1 waiting for other TODOs" in output


def test_a_missing_answer_is_said_where_the_code_passes(course):
    answer = """
@pytest.mark.todo_{1}
def test_written_{1}():
    from tests.todo import AnswerMissingError
    raise AnswerMissingError("TODO {0}: the ANSWER is missing")
"""
    tests = {
        "1.1": PASSING,  # the code is right
        "1.2": not_started("1.2"),
        "1.3": "def test(): assert False, 'expected 1, got 2'",
    }
    made = course(
        **{
            f"todo_{number.replace('.', '_')}": code + answer.format(number, number.replace(".", "_"))
            for number, code in tests.items()
        },
        todo_1_4="def test():\n    from tests.todo import AnswerMissingError\n"
        "    raise AnswerMissingError('TODO 1.4: the ANSWER is missing')",
    )
    _code, rows, _output = made.check()
    assert_others_pass(rows, "1.1", "1.2", "1.3", "1.4")
    assert rows["1.1"] == ("failing", "0/3", "TODO 1.1: the ANSWER is missing")
    assert rows["1.2"] == ("not started", "0/5", "TODO 1.2: do it")
    assert rows["1.3"] == ("failing", "0/2", "expected 1, got 2")
    assert rows["1.4"] == ("not started", "0/4", "TODO 1.4: the ANSWER is missing")


def test_crashes_and_endless_loops_hide_no_other_todo(course):
    code, rows, _ = course(
        todo_1_0=not_started("1.0"),
        todo_1_1="def test():\n    import os\n    os._exit(0)",
        todo_1_4="def test():\n    while True: pass",
        todo_1_5="def test():\n    import sys\n    sys.exit(0)",
        todo_2_0="def test(): raise KeyboardInterrupt",
        todo_2_3="def test():\n    import os\n    os.abort()",
        todo_2_7="def test():\n    import time\n    time.sleep(1000)",
    ).check("--timeout", "2")
    assert code == 1
    assert_others_pass(rows, "1.0", "1.1", "1.4", "1.5", "2.0", "2.3", "2.7")
    assert rows["2.7"][2] == "in test_todo_2_7: no answer within 2 s; an endless loop?"
    assert rows["1.0"][0] == "not started"
    assert rows["1.1"][2].startswith("in test_todo_1_1: Python ended with exit code 0")
    assert rows["1.4"][2] == "in test_todo_1_4: no answer within 2 s; an endless loop?"
    assert rows["1.5"][2].startswith("SystemExit: 0")
    assert rows["2.0"][2].startswith("in test_todo_2_0: Python ended")
    assert re.match(r"in test_todo_2_3: Python (ended with exit|was ended by signal)", rows["2.3"][2])


@pytest.mark.parametrize(("idle_s", "counted_s"), [(0.0, 25.0), (40.0, 40.0), (150.0, 100.0)])
def test_waiting_counts_in_full_while_a_processor_is_idle(monkeypatch, idle_s, counted_s):
    """100 s in which the process computes nothing: on a busy machine that may be the machine's fault."""
    now = SimpleNamespace(idle=7.0, user=1.0, system=0.0)
    monkeypatch.setattr("tests.check_table.psutil.cpu_times", lambda: now)
    monkeypatch.setattr("tests.check_table.psutil.Process", lambda pid: SimpleNamespace(cpu_times=lambda: now))
    monkeypatch.setattr("tests.check_table.time.monotonic", lambda: 100.0)
    clock = Clock(1)
    for second in range(1, 101):
        now.idle += idle_s / 100
        monkeypatch.setattr("tests.check_table.time.monotonic", lambda now_s=100.0 + second: now_s)
        waited_s = clock.waited_s()
    assert waited_s == pytest.approx(counted_s)
    now.idle += 3600  # the laptop was closed for an hour
    monkeypatch.setattr("tests.check_table.time.monotonic", lambda: 3800.0)
    assert clock.waited_s() == 0


def test_numbers_of_two_digits(course):
    """1.10 comes after 1.2, is not the stub of another TODO, and Part 10 is not Part 1."""
    made = course()
    todos = "".join(f'    Todo("{number}", "task", 3, "tests/test_all.py"),\n' for number in ("1.2", "1.10", "10.1"))
    text = f"from tests.todo import Todo\n\nTODOS = (\n{todos})\n"
    (made.folder / "tests" / "todos.py").write_text(text, encoding="utf-8")
    tests = {"1_10": not_started("1.10"), "10_1": PASSING, "1_2": "def test():\n    import os\n    os._exit(0)"}
    body = "import pytest\n"
    for name, test in tests.items():
        body += f"@pytest.mark.todo_{name}\n{test.replace('def test', 'def test_' + name)}\n"
    (made.folder / "tests" / "test_all.py").write_text(body, encoding="utf-8")
    markers = "".join(f'"todo_{name}: x",\n' for name in ("1_10", "10_1"))
    settings = made.folder / "pyproject.toml"
    settings.write_text(settings.read_text().replace("markers = [", f"markers = [\n{markers}"), encoding="utf-8")
    printed = subprocess.run(
        [sys.executable, "-m", "tests"], cwd=made.folder, capture_output=True, text=True, timeout=120
    ).stdout
    states = re.findall(r"^(\d+\.\d+) +task +(failing|not started|passing)", printed, re.MULTILINE)
    assert states == [("1.2", "failing"), ("1.10", "not started"), ("10.1", "passing")]
    assert "Part 1: 0 of 6 points; Part 10: 3 of 3 points" in printed


def test_each_call_gives_one_more_hint_and_runs_nothing(course):
    made = course(todo_1_2="def test(): assert False")
    assert "--hint" not in made.check("--help")[2]
    _code, _rows, printed = made.check("1.2", "--hint")
    assert "there are no hints here" in printed
    shutil.copy(ROOT / "tests" / "hints.json", made.folder / "tests")
    assert "--hint" in made.check("--help")[2]
    assert "name a TODO" in made.check("--hint")[2]
    said = [made.check("1.2", "--hint") for _ in range(4)]
    assert [re.findall(r"hint \d of 3|^  - ", printed, re.MULTILINE) for _code, _rows, printed in said] == [
        [f"hint {number} of 3", *["  - "] * number] for number in (1, 2, 3, 3)
    ]
    assert [code for code, _rows, _printed in said] == [0] * 4
    (made.folder / ".hints_seen.json").write_text("{", encoding="utf-8")
    assert "hint 1 of 3" in made.check("1.2", "--hint")[2]


@pytest.mark.parametrize(("file", "todos"), [("tests/hints.json", TODOS), ("tests/labs/hw5/hints.json", HW5_TODOS)])
def test_every_todo_has_a_question_a_direction_and_a_reference(file, todos):
    hints = json.loads((ROOT / file).read_text(encoding="utf-8"))
    assert list(hints) == [todo.number for todo in todos]
    for number, (question, direction, reference) in hints.items():
        assert "?" in question, number
        assert all(len(text) > 20 for text in (direction, reference)), number
        assert not re.search(r"\w\(|\s=\s|^\s*(for|return|import) ", f"{direction} {reference}"), (
            f"{number}: that is code"
        )


def test_a_thread_that_never_ends_is_not_waited_for(course):
    thread = "def test():\n    import threading, time\n    threading.Thread(target=time.sleep, args=(1000,)).start()"
    code, rows, _ = course(todo_2_8=thread).check()
    assert code == 0
    assert_others_pass(rows)


def test_modules_that_cannot_be_imported_fail_only_the_todos_of_their_files(course):
    made = course()
    modules = {
        "tests/test_todo_1_models.py": ("mine_a", "1 / 0\n"),
        "tests/test_todo_1_training.py": ("mine_b", "import os\nos._exit(3)\n"),
        "tests/test_todo_2_models.py": ("mine_c", "while True: pass\n"),
        "tests/test_todo_2_training.py": ("mine_d", "def f(:\n"),
    }
    for file, (name, text) in modules.items():
        made.heads[file] = f"import {name}"
        (made.folder / f"{name}.py").write_text(text)
    code, rows, _ = made.check("--timeout", "3")
    assert code == 1
    assert_others_pass(rows, *(todo.number for todo in TODOS if todo.file in modules))
    for todo in TODOS:
        line = rows[todo.number][2]
        if todo.file == "tests/test_todo_1_models.py":
            assert line == "ZeroDivisionError: division by zero (mine_a.py:1)"
        elif todo.file == "tests/test_todo_2_training.py":
            assert re.fullmatch(r"SyntaxError: .* \(mine_d.py:1\)", line)
        elif todo.file in modules:
            reason = "Python ended with exit code 3" if "training" in todo.file else "no answer within 3 s"
            assert line.startswith(f"while Python read the modules that {todo.file} imports: {reason}")


def test_single_todos_can_be_chosen(course):
    made = course(todo_1_2="def test(): assert False, 'not asked for'")
    code, rows, output = made.check("1.0", "2.3")
    assert code == 0
    assert set(rows) == {"1.0", "2.3"}
    assert "Part 1: 2 of 2 points; Part 2: 5 of 5 points" in output
    assert made.check("1.2")[0] == 1


def test_mistakes_on_the_command_line_are_named(course):
    made = course()
    code, _, output = made.check("3.1")
    assert code == 2
    assert "unknown TODO 3.1; allowed: 1.0, 1.1" in output
    code, _, output = made.check("--timeout", "0")
    assert code == 2
    assert "allowed: above 0" in output


def test_a_pytest_that_cannot_start_is_reported(course):
    made = course()
    (made.folder / "tests" / "conftest.py").write_text("raise RuntimeError('a broken conftest')\n")
    code, rows, _ = made.check()
    assert code == 1
    assert {row[0] for row in rows.values()} == {"failing"}
    assert rows["1.0"][2] == "the tests could not be started: RuntimeError: a broken conftest"


def test_a_file_that_hides_a_module_of_python_is_named(course):
    made = course()
    (made.folder / "random.py").write_text("x = 1\n")
    assert "ImportError: random.py in this folder hides Python's own module" in made.check()[2]


def test_a_pytest_that_never_begins_says_why(course, monkeypatch):
    made = course()
    (made.folder / "sitecustomize.py").write_text(
        "import sys, os\nif '-q' in sys.orig_argv: os._exit(7)\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(made.folder))
    _code, rows, _ = made.check()
    assert rows["1.0"][2].startswith("the tests could not be started: Python ended with exit code 7")
