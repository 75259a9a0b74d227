"""Proofs that run the starter: what they must notice, on small starters, and the whole check on the real one."""

from __future__ import annotations

import pytest

from staff.release.starter import behaviour, release
from staff.tests.release.tools import built, command

STUB = "def test_{n}():\n    raise NotImplementedError('TODO {todo}: do it')\n"
SETTINGS = "[tool.pytest.ini_options]\nmarkers = ['todo_1_1: one', 'todo_1_2: two']\ntestpaths = ['tests']\n"


def starter(folder, **tests):
    """A starter without torch whose test files hold the given texts."""
    copy = folder / "starter"
    (copy / "tests").mkdir(parents=True)
    (copy / "pyproject.toml").write_text(SETTINGS)
    for name, text in tests.items():
        (copy / "tests" / f"test_{name}.py").write_text("import pytest\n" + text)
    return copy


def marked(todo, body):
    return f"@pytest.mark.todo_{todo.replace('.', '_')}\n{body}"


def stub(todo, n=1):
    return marked(todo, STUB.format(n=n, todo=todo))


def test_stubs_that_fail_and_provided_tests_that_pass_are_right(tmp_path):
    copy = starter(tmp_path, a=stub("1.1") + stub("1.2", 2), b="def test_provided(): pass\n")
    proof = behaviour.proves_tests(copy, {"1.1": "todo_1_1", "1.2": "todo_1_2"})
    assert proof.problems == []
    assert "2 tests of 2 TODOs fail with their own stub, 1 of provided code pass" in str(proof)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (marked("1.1", "def test_x(): pass\n"), "TODO 1.1 is to do, but passed"),
        (marked("1.1", "def test_x(): assert 0, 'odd'\n"), "TODO 1.1 is to do, but failed (AssertionError: odd"),
        (marked("1.1", STUB.format(n=3, todo="1.2")), "but failed (NotImplementedError: TODO 1.2"),
        (marked("1.1", "def test_x(): pytest.skip('later')\n"), "TODO 1.1 is to do, but skipped"),
        ("def test_x(): assert 0\n", "guards provided code, but failed"),
        (marked("1.1", stub("1.2", 3)), "belongs to several TODOs"),
        ("import nothing_of_this_name\n", "no collection"),
    ],
    ids=["passes", "another error", "another stub", "skipped", "provided", "two TODOs", "no import"],
)
def test_every_other_outcome_is_named(tmp_path, text, named):
    copy = starter(tmp_path, a=stub("1.1") + stub("1.2", 2), b=text)
    proof = behaviour.proves_tests(copy, {"1.1": "todo_1_1", "1.2": "todo_1_2"})
    assert any(named in problem for problem in proof.problems), proof.problems


def test_a_public_test_that_fails_on_the_solution_is_named(tmp_path):
    text = "import graded\n" + marked("1.1", "def test_x(): assert graded.one() == 2, 'off'\n")
    copy = starter(tmp_path, a=text + "def test_provided(): pass\n")
    (copy / "graded.py").write_text("def one(): raise NotImplementedError('TODO 1.1: one')\n")
    proof = behaviour.proves_solution(copy, {"graded.py": "def one(): return 1\n"})
    assert len(proof.problems) == 1
    assert "test_x: failed (AssertionError: off" in proof.problems[0]
    assert behaviour.proves_solution(copy, {"graded.py": "def one(): return 2\n"}).problems == []


def test_a_todo_without_a_test_is_named(tmp_path):
    proof = behaviour.proves_tests(starter(tmp_path, a=stub("1.1")), {"1.1": "todo_1_1", "1.2": "todo_1_2"})
    assert proof.problems == ["TODO 1.2 has no public test that fails"]


def test_imports_that_fail_speak_or_exit_are_named(tmp_path):
    texts = {
        "fine": "x = 1\n",
        "broken": "import nothing_of_this_name\n",
        "loud": "print('hello')\n",
        "ends": "exit()\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    proof = behaviour.proves_imports(tmp_path, [f"{name}.py" for name in texts])
    assert proof.problems[0].startswith("broken: ModuleNotFoundError")
    assert proof.problems[1] == "hello"
    assert proof.problems[2].startswith("ends: SystemExit")
    assert behaviour.proves_imports(tmp_path, ["fine.py"]).problems == []


def test_ruff_findings_are_named(tmp_path):
    (tmp_path / "a.py").write_text("import os\nx=1\n")
    found = behaviour.proves_ruff(tmp_path, ["a.py"]).problems
    assert any(problem.startswith("a.py:1:8: F401") for problem in found)
    assert "a.py: ruff would change its layout" in found


@pytest.mark.timeout(1750)  # the public tests run in it, and those of the TODOs twice
def test_the_real_starter_passes_every_proof(sources, tmp_path):
    folder = tmp_path / "starter"
    release.write_release(folder, built(sources).files)
    result = command("staff.check_starter", folder, "--source", sources)
    assert result.returncode == 0, result.stdout + result.stderr
    passed = result.stdout.count("\nok ") + result.stdout.startswith("ok ")
    assert f"all {passed} proofs hold" in result.stdout
