"""`python -m staff.grade` from outside: what complete, empty, older, packed and wrong submissions get."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest

from staff.grader import assignment as assignments
from staff.grader import processes
from staff.tests.grading_tools import LEGACY, MODULES, ROOT, command, grade, reference

pytestmark = pytest.mark.timeout(1200)  # a whole submission is a minute on an idle machine
PROJECT = assignments.load("project2")
ALL = [todo.id for todo in PROJECT.todos if not todo.extra]


def test_reference_has_all_points(reference_graded):
    results = reference_graded.results
    assert reference_graded.run.returncode == 0
    missed = [
        c["title"] + ": " + c["message"] for t in results["todos"] for c in t["checks"] if c["status"] != "passed"
    ]
    assert (results["score"], results["max_score"]) == (PROJECT.points, PROJECT.points), missed
    # The sample cannot tell 99% from 97%: the ten points need the full set, whatever was handed in.
    assert (results["extra"], results["max_extra"]) == (0.0, PROJECT.extra_points)
    assert "cannot be shown on the bundled sample" in results["todos"][-1]["checks"][0]["message"]
    assert results["data"]["kind"] == "sample"
    assert results["staff_only"]["restarts"] == 0
    assert results["submission"]["ignored"] == []


def test_starter_has_none(starter_graded):
    results = starter_graded.results
    assert starter_graded.run.returncode == 0
    assert (results["score"], results["extra"]) == (0.0, 0.0)
    expected = {todo: "skipped" if todo in ("1.6", "2.8") else "not started" for todo in ALL}
    assert {**starter_graded.status(), "extra": "skipped"} == {**expected, "extra": "skipped"}
    needs = next(todo for todo in results["todos"] if todo["id"] == "1.6")["checks"][0]["message"]
    assert needs.startswith("needs TODO 1.3 (classification loss)")  # said, and not counted as another mystery
    assert {"README.md", "tests/conftest.py"} <= set(results["submission"]["ignored"])


def test_submission_of_an_earlier_term(tmp_path):
    """Base signatures only, no linear models, no checkpoints: it loses those points and no others."""
    graded = grade(LEGACY, tmp_path)
    assert graded.run.returncode == 0
    assert "error in the grader" not in graded.run.stderr
    lost = {todo["id"]: round(todo["max"] - todo["points"], 2) for todo in graded.results["todos"]}
    # for the checkpoints that are missing 1.6 loses 1 of 5.5 weights, 2.8 loses 1 of 5.5
    assert {todo: points for todo, points in lost.items() if points} == {
        "1.0": 2, "1.6": 0.91, "2.0": 1, "2.8": 0.73, "extra": 10,
    }  # fmt: skip
    messages = [c["message"] for t in graded.results["todos"] for c in t["checks"] if c["status"] == "failed"]
    assert any("no classification.pt was handed in" in message for message in messages)
    assert any("has no attribute 'LinearModel'" in message for message in messages)


@pytest.mark.parametrize("packing", ["zip", "git"])
def test_other_packings_give_the_same(tmp_path, packing):
    folder = reference(tmp_path / "submission" / "project", checkpoints=False)
    submission = folder
    if packing == "zip":
        submission = tmp_path / "submission.zip"
        with zipfile.ZipFile(submission, "w") as archive:
            for name in MODULES:
                archive.write(folder / name, f"project/{name}")
    else:
        git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "solution"]):
            subprocess.run([*git, *words], check=True)
        submission = folder / ".git"  # bare, as it is pushed: the last commit
    graded = grade(submission, tmp_path / "out", "--todo", "1.3", "2.4")
    assert graded.run.returncode == 0, graded.run.stderr
    assert {todo: points for todo, points in graded.points().items() if points} == {"1.3": 2.0, "2.4": 2.0}


def test_partial_credit_expectation_and_hint(tmp_path):
    """No zero_grad: one step is right, several are not, and the results say what to think about."""
    folder = reference(tmp_path / "submission", checkpoints=False)
    path = folder / "classification_train.py"
    path.write_text(
        path.read_text().replace("optimizer.zero_grad()", "pass").replace(".zero_grad(set_to_none=True)", "")
    )
    graded = grade(folder, tmp_path / "out", "--todo", "1.4")
    todo = next(todo for todo in graded.results["todos"] if todo["id"] == "1.4")
    assert todo["status"] == "partly"
    assert 0 < todo["points"] < todo["max"]
    failed = {check["test"].split("::")[1]: check for check in todo["checks"] if check["status"] == "failed"}
    assert "test_one_step" not in failed
    assert "test_many_steps" in failed
    assert "gradients of earlier batches were added up" in failed["test_many_steps"]["message"].splitlines()[0]
    assert "to zero" in failed["test_many_steps"]["hint"]


def test_todo_runs_what_it_needs_and_first_failure_ends_it(tmp_path):
    folder = reference(tmp_path / "submission", checkpoints=False)
    models = folder / "segmentation_models.py"
    text = models.read_text()
    assert text.count("1 - ") >= 1
    models.write_text(text.replace("1 - ", "1 + "))  # the Dice loss has more than one check against that
    words = ["--todo", "1.6", "2.4", "--no-gates", "--first-failure"]
    graded = grade(folder, tmp_path / "out", *words)
    todos = {todo["id"]: todo for todo in graded.results["todos"]}
    statuses = {todo: [check["status"] for check in todos[todo]["checks"]] for todo in todos}
    assert statuses["1.6"][0] == "passed", "its history needs 1.3 to 1.5, whose core checks ran"
    assert "passed" in statuses["1.4"]
    assert set(statuses["1.0"]) == {"skipped"}
    assert statuses["2.4"].count("failed") == 1
    after = todos["2.4"]["checks"][statuses["2.4"].index("failed") + 1 :]
    assert after
    assert all("an earlier check of this TODO failed" in check["message"] for check in after)


def test_own_traceback_is_shown_without_paths(tmp_path):
    folder = reference(tmp_path / "submission", checkpoints=False)
    with open(folder / "classification_train.py", "a") as file:
        file.write(
            "\n\ndef train_epoch(*arguments, **keywords):\n    return helper()\n\n\ndef helper():\n    return 1 / 0\n"
        )
    graded = grade(folder, tmp_path / "out", "--todo", "1.4")
    check = next(todo for todo in graded.results["todos"] if todo["id"] == "1.4")["checks"][0]
    assert check["message"] == "ZeroDivisionError: division by zero"
    assert [frame.split(" in ")[1] for frame in check["frames"]] == [
        "train_epoch: return helper()",
        "helper: return 1 / 0",
    ]
    assert "/" not in "".join(frame.split(" in ")[0] for frame in check["frames"])


def test_the_same_seed_gives_the_same_figures(tmp_path):
    """An earlier results.json is enough to grade again with the same secret data; else the data are fresh."""
    text = (LEGACY / "segmentation_models.py").read_text()
    (tmp_path / "submission").mkdir()
    wrong = text.replace("2.0 * intersection", "1.9 * intersection")
    (tmp_path / "submission/segmentation_models.py").write_text(wrong)

    def values(name: str, *arguments: object) -> list[str]:
        graded = grade(tmp_path / "submission", tmp_path / name, "--todo", "2.4", *arguments)
        todo = next(todo for todo in graded.results["todos"] if todo["id"] == "2.4")
        assert todo["points"] == 0
        return [check["message"] for check in todo["checks"]]

    first = values("first")
    assert values("again", "--seed-file", tmp_path / "first/results.json") == first
    assert values("fresh") != first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "submission 'nowhere' does not exist"),
        ([ROOT / "README.md"], "the file holds none of the assignment's files"),
        ([LEGACY, "--assignment", "project9"], "assignment is 'project9'; allowed: "),
        ([ROOT / "staff" / "gradebook"], "holds none of the assignment's files"),
        ([LEGACY, "--html", ROOT / "staff"], "is a folder; name the file to write"),
        ([LEGACY, "--seed_file", ROOT / "data/bundled/manifest.json"], "is not a results.json of this grader"),
    ],
)
def test_mistakes_are_one_line_and_no_grade(tmp_path, arguments, message):
    out = tmp_path / "results.json"
    out.write_text('{"score": 50}')  # of an earlier run: must not pass for a result of this one
    run = command("staff.grade", *arguments, "--out", out)
    assert run.returncode == 2
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not out.exists()


def test_required_layer_fails_closed(tmp_path):
    """Without bubblewrap on the path --require bwrap gives no grade, and the exit code says that we failed."""
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    run = command("staff.grade", LEGACY, "--out", tmp_path / "r.json", "--require", "bwrap", env=environment)
    assert run.returncode == 3
    assert "nothing was graded: --require bwrap: bubblewrap is not installed" in run.stderr
    assert not (tmp_path / "r.json").exists()


def test_a_fault_of_the_grader_gives_no_points(tmp_path):
    """A check that breaks is told to the staff: exit code 3, no point of its TODO, nothing blamed on the student."""
    broken = shutil.copytree(ROOT, tmp_path / "copy", ignore=_ignore)
    path = broken / "staff/assignments/project2/graded_tests/test_2_losses.py"
    head = "def test_dice_value(student, rng):"
    path.write_text(path.read_text().replace(head, f"{head}\n    1 / 0"))
    words = ["--todo", "2.4", "2.5", "--out", tmp_path / "r.json", "--gradescope", tmp_path / "gradescope.json"]
    run = command("staff.grade", LEGACY, *words, cwd=broken)
    assert run.returncode == 3
    assert "error in the grader: test_2_losses.py::test_dice_value: ZeroDivisionError" in run.stderr
    points = {todo["id"]: todo["points"] for todo in json.loads((tmp_path / "r.json").read_text())["todos"]}
    assert (points["2.4"], points["2.5"]) == (0, 2)
    shown = json.loads((tmp_path / "gradescope.json").read_text())
    assert "score" not in shown  # a mistake of ours must not be shown as points that are missing
    assert "not your fault" in shown["output"]
    assert "ZeroDivisionError" not in shown["output"]


def test_a_signal_during_a_check_ends_the_grader_and_all_that_it_started(tmp_path):
    """No result, no process, no folder stays; and the exit code says which signal it was."""
    (tmp_path / "submission").mkdir()
    (tmp_path / "tmp").mkdir()
    code = "import os\nopen(os.environ['TMPDIR'] + '/started', 'w').close()\nwhile True: pass\n"
    (tmp_path / "submission/segmentation_models.py").write_text(code)
    words = [sys.executable, "-m", "staff.grade", tmp_path / "submission", "--todo", "2.4"]
    words += ["--out", tmp_path / "results.json", "--gradescope", tmp_path / "gradescope.json", "--require", "limits"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as grader:
        try:
            deadline = time.monotonic() + 300
            while not list((tmp_path / "tmp").glob("grade-*/scratch/started")):
                assert time.monotonic() < deadline
                assert grader.poll() is None
                time.sleep(0.05)
            workers = set(processes.descendants(grader.pid))
            grader.send_signal(signal.SIGTERM)
            grader.send_signal(signal.SIGTERM)
            _, errors = grader.communicate(timeout=100)
        finally:
            grader.kill()
    assert (grader.returncode, errors) == (128 + signal.SIGTERM, "stopped: nothing was graded\n")
    assert workers
    assert not workers & {int(name) for name in os.listdir("/proc") if name.isdigit()}
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "results.json").exists()
    assert "score" not in json.loads((tmp_path / "gradescope.json").read_text())


def _ignore(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name in (".git", ".venv", "build", "runs", "labs", "__pycache__", "bench")}
