"""`python -m staff.grade_class`: every line of a class, cached by content, interrupted and continued."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from staff.gradebook import class_report, grade_class
from staff.gradebook.class_report import Entry, file_name
from staff.gradebook.grade_class import grader_digest
from staff.gradebook.handed_in import find_entries
from staff.grader import assignment as assignments
from staff.tests.grading_tools import LEGACY, MODULES, ROOT, command
from toolkit.errors import UserError
from toolkit.sweeps import jobs

pytestmark = pytest.mark.timeout(900)


def variant(folder: Path, starter: Path, number: int) -> Path:
    """A starter that differs from the others in one comment."""
    folder.mkdir(parents=True)
    for name in MODULES:
        shutil.copy(starter / name, folder)
    with open(folder / MODULES[0], "a") as file:
        file.write(f"# {number}\n")
    return folder


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "grades.csv", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.fixture
def school(tmp_path, starter_folder) -> Path:
    """Two equal submissions, one with four points in a zip with a dangerous name, and three that cannot be graded."""
    folder = tmp_path / "class"
    variant(folder / "ada", starter_folder, 1)
    variant(folder / "bob", starter_folder, 1)
    losses = (LEGACY / "segmentation_models.py").read_text()
    for name in ("MLPSegmentation", "SimpleCNN", "TinyUNet"):
        losses += f"\n\nclass {name}(nn.Module):\n    def __init__(self, *a, **k):\n        raise NotImplementedError\n"
    with zipfile.ZipFile(folder / "=cyd & <b>.zip", "w") as archive:
        archive.writestr("segmentation_models.py", losses)
    (folder / "empty").mkdir()
    (folder / "damaged.zip").write_bytes(b"PK\x03\x04 and nothing more")
    (folder / "notes.txt").write_text("not a submission")
    return folder


def test_class(school):
    out = school.with_name("class-grades")
    run = command("staff.grade_class", school, "--jobs", 2)
    assert run.returncode == 1, run.stderr  # two could not be graded
    rows = rows_of(out)
    assert {name: row["score"] for name, row in rows.items()} == {
        "'=cyd & <b>": "4.0", "ada": "0.0", "bob": "0.0", "damaged": "", "empty": "",
    }  # fmt: skip
    assert rows["bob"]["same_files_as"] == "ada"
    assert rows["'=cyd & <b>"]["TODO 2.4"] == "2.0"
    assert "holds none of the assignment's files" in rows["empty"]["problem"]
    assert "notes.txt" in run.stdout
    assert len(list((out / "jobs").iterdir())) == 2  # ada and bob are one job
    page = (out / "overview.html").read_text()
    assert "<b>" not in page
    assert "same files as ada" in page
    pages = [f"{file_name('=cyd & <b>')}.html", "ada.html", "bob.html"]
    assert sorted(path.name for path in (out / "feedback").iterdir()) == pages

    before = {path: path.stat().st_mtime for path in (out / "jobs").rglob("results.json")}
    again = command("staff.grade_class", school)
    assert {path: path.stat().st_mtime for path in (out / "jobs").rglob("results.json")} == before
    assert "2 done (2 before)" in again.stdout
    assert rows_of(out) == rows

    with open(school / "bob" / MODULES[0], "a") as file:
        file.write("# bob has changed his mind\n")
    again = command("staff.grade_class", school, "--regrade", "ada", "--todo", "2.4", "--secrets", "old")
    changed = [path for path in (out / "jobs").rglob("results.json") if before.get(path) != path.stat().st_mtime]
    assert before.keys() <= set((out / "jobs").rglob("results.json"))  # the older ones stay
    assert rows_of(out)["ada"]["score_before"] == "0.0"
    assert "ada: before 0, now 0 (no TODO changed)" in again.stdout
    part = next(json.loads(path.read_text()) for path in changed if "-1" in path.parent.name)
    assert (part["partial"], part["graded_again"], len(part["todos"])) == ("", "only TODO 2.4", 17)  # whole again
    assert part["staff_only"]["seed"] == part["staff_only"]["graded_again"][0]["seed"]
    assert "Graded again" in (out / "overview.html").read_text()
    assert len(changed) == 2  # ada because it was asked for, bob because his files differ now; not cyd
    assert rows_of(out)["bob"]["same_files_as"] == ""


def test_interrupted_and_continued(tmp_path, starter_folder):
    folder, out = tmp_path / "class", tmp_path / "class-grades"
    for number in range(3):
        variant(folder / f"student{number}", starter_folder, number)
    words = [sys.executable, "-m", "staff.grade_class", str(folder), "--jobs", "1"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 400
    while not list(out.glob("jobs/*/page.html")):  # written after results.json
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in errors
    done = [name for name, row in rows_of(out).items() if row["score"]]
    assert 1 <= len(done) < 3
    assert {row["problem"] for name, row in rows_of(out).items() if name not in done} <= {
        "not graded yet",
        "the dispatcher was stopped",
    }
    run = command("staff.grade_class", folder, "--jobs", 2)
    assert run.returncode == 0, run.stderr
    assert f"({len(done)} before)" in run.stdout
    assert {row["score"] for row in rows_of(out).values()} == {"0.0"}


def test_names_and_what_is_left_out(tmp_path):
    for name in ("Ada", ".hidden", "out"):
        (tmp_path / name).mkdir()
    junk = ["Bob.ZIP:Zone.Identifier", "Thumbs.db", "desktop.ini"]
    for name in ("Ada.zip", "Bob.ZIP", "grades.txt", *junk):
        (tmp_path / name).write_bytes(b"")
    found, others = find_entries(tmp_path, tmp_path / "out")
    assert [name for name, _ in found] == ["Ada", "Ada.zip", "Bob"]
    assert sorted(others) == sorted([*junk, "grades.txt"])


def test_a_file_that_cannot_be_copied_is_a_row(tmp_path):
    for name in ("classification_models.py", "segmentation_models.py"):
        (tmp_path / f"curie_345_678_{name}").write_text("x = 1")
    os.mkfifo(tmp_path / "curie_345_679_pipe")
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada/segmentation_models.py").write_text("x = 1")
    found, _ = find_entries(tmp_path, tmp_path / "out")
    entries = grade_class.read_entries(found, assignments.load("project2"), "grader")
    assert {entry.name: bool(entry.problem) for entry in entries} == {"ada": False, "curie_345": True}


def test_a_link_is_not_followed(tmp_path):
    """To wherever it leads, another student's work or ours, there is no grade."""
    (tmp_path / "class").mkdir()
    (tmp_path / "models.py").write_text("x = 1")
    for name, target in (("up", ".."), ("gone", "nowhere"), ("file.py", "../models.py")):
        (tmp_path / "class" / name).symlink_to(target)
    found, _ = find_entries(tmp_path / "class", tmp_path / "out")
    entries = grade_class.read_entries(found, assignments.load("project2"), "grader")
    assert [entry.problem.partition(",")[0] for entry in entries] == ["it is a link"] * 3


def test_files_of_many_students_in_one_folder(tmp_path):
    """As Moodle and Canvas download them: one entry a student; whatever is not understood is one, too."""
    school = tmp_path / "class"
    (school / "Eve Adams_9_assignsubmission_file").mkdir(parents=True)
    (school / "Eve Adams_9_assignsubmission_onlinetext").mkdir()
    loose = [f"Ada Lovelace_12_assignsubmission_file_{name}" for name in MODULES]
    loose += [f"curie_LATE_345_678_{name.replace('.py', '-1.py')}" for name in MODULES] + ["curie_345_679_best.zip"]
    loose += ["noether_77_1_report.pdf", "turing.ipynb", "roster.csv"]
    for name in loose:
        (school / name).write_bytes(b"x = 1")
    found, others = find_entries(school, tmp_path / "out")
    assert others == ["roster.csv"]
    names = [name for name, _ in found]
    assert sorted(names) == ["Ada Lovelace_12", "Eve Adams_9", "curie_345", "noether_77", "turing.ipynb"]
    project = assignments.load("project2")
    entries = {entry.name: entry for entry in grade_class.read_entries(found, project, "grader")}
    assert [name for name, entry in entries.items() if not entry.problem] == ["Ada Lovelace_12", "curie_345"]
    assert "it holds noether_77_1_report.pdf" in entries["noether_77"].problem
    assert entries["Ada Lovelace_12"].digest == entries["curie_345"].digest  # the same four files
    (school / loose[0]).unlink()
    again = dict(find_entries(school, tmp_path / "out")[0])["Ada Lovelace_12"]
    assert len(list(again.iterdir())) == 3  # what was taken back is not graded


@pytest.mark.parametrize(("folder", "message"), [("nowhere", "which is no folder"), (".", "holds no submission")])
def test_no_class(tmp_path, folder, message):
    with pytest.raises(UserError, match=message):
        find_entries(tmp_path / folder, tmp_path / "out")


def test_cache_knows_grader_and_data(tmp_path):
    """Whatever could change a grade changes the digest."""
    project = assignments.load("project2")
    data = tmp_path / "data.npz"
    data.write_bytes(b"1")
    first = grader_digest(project, data, None)
    assert grader_digest(project, data, None) == first
    assert grader_digest(project, data, "bwrap") != first
    data.write_bytes(b"2")
    assert grader_digest(project, data, None) != first


@pytest.mark.parametrize(
    ("one", "other"),
    [("राम", "रीम"), ("Ngân", "Ngăn"), ("o:brien", "o?brien"), ("Ada", "ada"), ("a b", "a_b"), ("x" * 300, "x" * 301)],
)
def test_two_names_are_two_pages(one, other):
    """Also where capitals do not count; and every name can be a file's."""
    assert file_name(one).casefold() != file_name(other).casefold()
    assert all(len(os.fsencode(file_name(name))) < 200 and "/" not in file_name(name) for name in (one, other))


def entry_with(out: Path, job: str, score: float | None, name: str = "ada") -> Entry:
    """An entry whose job has results, or was interrupted (None)."""
    folder = out / "jobs" / job
    folder.mkdir(parents=True)
    if score is not None:
        results = {"score": score, "extra": 0, "submission": {"sha256": "d"}, "todos": [{"id": "1.0", "points": score}]}
        (folder / "results.json").write_text(json.dumps(results))
        jobs.write_status(str(folder), jobs.Status(state="done"))
    return Entry(name, Path("somewhere"), "d", job=job.partition("-")[0])


def test_old_results_stay_until_new_ones_are_complete(tmp_path):
    first = entry_with(tmp_path, "key", 7.0)
    grade_class.use_newest([first], ["ada"], tmp_path)
    assert (first.job, first.before, first.again) == ("key-1", "key", True)
    entry_with(tmp_path, "key-1", None)  # interrupted
    grade_class.keep_older_results([first], tmp_path)
    assert (first.job, first.before) == ("key", "")
    row = class_report.collect([first], tmp_path)[0]
    assert (row["score"], row["problem"]) == (
        7.0,
        "graded again without a result (not done yet); the earlier one counts",
    )
    again = entry_with(tmp_path, "key-2", 8.0)
    grade_class.use_newest([again], [], tmp_path)
    row = class_report.collect([again], tmp_path)[0]
    assert (row["score"], row["before"]) == (8.0, 7.0)
    assert class_report.told_again(row) == "before 7, now 8 (TODO 1.0: 7 -> 8)"
    assert "<td>ada</td>" in class_report._regraded([row])
    with pytest.raises(UserError, match="regrade is 'eve'; allowed: ada"):
        grade_class.use_newest([again], ["eve"], tmp_path)


def test_a_part_is_graded_again_after_a_change_of_the_grader(tmp_path):
    """Onto the newest results of the same files, whichever grader made them; who is not named keeps theirs."""
    entry_with(tmp_path, "old", 7.0)
    ada, bob = (Entry(name, Path("somewhere"), "d", job=f"new{name}") for name in ("ada", "bob"))
    grade_class.use_newest([ada, bob], ["ada"], tmp_path, part=True)
    assert (ada.job, ada.before, bob.job, bob.again) == ("newada-1", "old", "old", False)
    arguments = grade_class.build_parser().parse_args(["x", "--regrade", "ada", "--check", "a::b", "--secrets", "old"])
    words = grade_class.regrade_argv(arguments, tmp_path / "jobs/old/results.json")
    assert [word for word in words if word.startswith("--")] == ["--seed_file", "--check", "--onto"]
    stranger = Entry("eve", Path("somewhere"), "other files", job="key")
    with pytest.raises(UserError, match="eve has no complete results for these files"):
        grade_class.use_newest([stranger], ["eve"], tmp_path, part=True)
    changed = Entry("ada", Path("somewhere"), "d", job="newada")  # the whole class after the change, interrupted
    grade_class.use_newest([changed], [], tmp_path)
    grade_class.keep_older_results([changed], tmp_path)
    assert class_report.collect([changed], tmp_path)[0]["score"] == 7.0


def test_tables_of_homework_5(tmp_path):
    """It has TODOs without points and a history: every column has a head, and nothing is divided by zero."""
    hw5 = assignments.load("hw5")
    todos = [{"id": t.id, "title": t.title, "points": t.points, "max": t.points, "status": "passed"} for t in hw5.todos]
    todos.append({"id": "git", "title": "history", "points": -5, "max": 0, "status": "failed"})
    results = {"todos": todos, "data": {"kind": "drawn"}, "sandbox": {"in_force": []}, "seconds": 1.0}
    row = {"name": "ada", "score": 95.0, "extra": 0.0, "problem": "", "same_as": "ada", "before": None}
    text = class_report.grades_csv([row | {"results": results}], hw5)
    head, line = csv.reader(text.splitlines())
    assert len(head) == len(line)
    assert dict(zip(head, line, strict=True))["git"] == "-5"
    page = class_report.overview([row | {"results": results}], hw5)
    assert page.count("<th") - page.split("<h2>By student")[0].count("<th") == page.rsplit("<tr>", 1)[1].count("<td")


def test_each_submission_that_cannot_be_read_has_a_row(tmp_path):
    names = [b"\xff\xfe", b"empty", b"a\x1b[2J"]
    for name in names:
        (tmp_path / os.fsdecode(name)).mkdir()
        (tmp_path / os.fsdecode(name) / "classification_models.py").write_text("" if name != b"empty" else "x")
    (tmp_path / "empty/classification_models.py").unlink()
    found, _ = find_entries(tmp_path, tmp_path / "out")
    entries = grade_class.read_entries(found, assignments.load("project2"), "grader")
    assert len(entries) == 3
    assert all(entry.name.isprintable() for entry in entries)
    problems = {entry.name: entry.problem for entry in entries}
    assert sorted(bool(text) for text in problems.values()) == [False, True, True]
    assert any("not UTF-8" in text for text in problems.values())


def test_history_is_in_the_key(tmp_path):
    """Equal files and different histories are two jobs where the history is judged, one where it is not."""
    for name, subject in (("a", "Load the splits"), ("b", "fix")):
        for file in ("classification_models.py", "labs/hw5_pneumonia/hw5_dl.py"):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text("x = 1\n")
        git = ["git", "-C", str(tmp_path / name), "-c", "user.name=x", "-c", "user.email=x@x"]
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", subject]):
            subprocess.run([*git, *words], check=True)
    found = [(name, tmp_path / name) for name in ("a", "b")]
    count = {
        name: len({e.job for e in grade_class.read_entries(found, assignments.load(name), "grader")})
        for name in ("hw5", "project2")
    }
    assert count == {"hw5": 2, "project2": 1}
