"""What a release holds, that it is the same bytes every time, and what happens to the folder it is written to."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from staff.release.starter import handout, recipe, release, sample
from staff.release.starter.build import build
from staff.release.starter.markers import read_graded
from staff.tests.release.tools import built, command
from toolkit.errors import UserError


def test_contents(sources):
    files = built(sources).files
    assert {"README.md", "AGENTS.md", "LICENSE", "Makefile", "pyproject.toml", "RELEASE.json"} <= set(files)
    assert {"tests/__main__.py", "tests/check_plugin.py", "tests/helpers.py", "dispatcher.py"} <= set(files)
    assert not [name for name in files if name.split("/")[0] in ("staff", "labs", "bench", ".ci")]
    assert not [name for name in files if name.startswith("tests/sweeps") or name.endswith(".pyc")]
    assert [name for name in files if name.endswith(".npz")] == ["data/bundled/pathmnist_sample.npz"]


def test_a_student_gets_little_to_read(sources):
    """Only what is opened or run: no tests of provided code, no module that nothing imports. Goal: 60 and 7,500."""
    files = built(sources).files
    lines = sum(data.count(b"\n") for name, data in files.items() if not name.endswith(".npz"))
    assert len(files) <= 105
    assert lines <= 13_500
    versions = files["constraints.txt"].decode()
    assert "\ntorch==" in versions
    assert "selenium" not in versions, "what the staff alone install"
    of_toolkit = {name for name in files if name.startswith("toolkit/") and "sweeps/" not in name}
    assert {"toolkit/training.py", "toolkit/__init__.py", "toolkit/compare.py"} <= of_toolkit
    staff_only = {"toolkit/study.py", "toolkit/backbones.py", "toolkit/images/__init__.py"}
    assert all((sources / name).exists() for name in staff_only)
    assert not staff_only & of_toolkit


def test_tuned_configurations_stay_here(sources):
    ours = {f"configs/{path.name}": json.loads(path.read_text()) for path in (sources / "configs").glob("*.json")}
    tuned = {name for name, config in ours.items() if isinstance(config, dict) and config.get("tuned")}
    assert tuned, "without a tuned configuration this test shows nothing"
    assert {name for name in built(sources).files if name.endswith(".json") and "configs/" in name} == set(ours) - tuned


def test_sample_lacks_its_test_arrays_and_keeps_the_rest(sources):
    ours = np.load(sources / "data/bundled/pathmnist_sample.npz")
    shipped = built(sources).files["data/bundled/pathmnist_sample.npz"]
    theirs = np.load(io.BytesIO(shipped), allow_pickle=False)
    assert set(ours.files) - set(theirs.files) == {"test_images", "test_labels", "unlabelled_test_images"}
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs.files)
    record = json.loads(built(sources).files["data/bundled/manifest.json"])["files"]
    assert [item["md5"] for item in record] == [hashlib.md5(shipped).hexdigest()]


def test_same_sources_same_bytes(sources, own_sources):
    """From two folders, hence no path inside; the archive too."""
    first, second = built(sources).files, build(recipe.load("project2", own_sources)).files
    assert {name: data for name, data in first.items() if name != release.RELEASE_FILE} == second
    assert sample.zip_bytes(first) == sample.zip_bytes(dict(reversed(first.items())))
    with zipfile.ZipFile(io.BytesIO(sample.zip_bytes(first))) as archive:
        assert {(item.date_time, item.external_attr) for item in archive.infolist()} == {
            ((1980, 1, 1, 0, 0, 0), 0o100644 << 16)
        }


def test_commit_and_changes_are_told(own_sources):
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", str(own_sources)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "all"], check=True)
    loaded = recipe.load("project2", own_sources)
    clean = build(loaded).commit
    assert len(clean) == 40
    (own_sources / "toolkit/sweeps/notes.py").write_text("# draft of a solution\n")
    made = build(loaded)
    assert made.commit == clean, "a file that does not ship is not a change"
    assert "toolkit/sweeps/notes.py" not in made.files
    assert any("toolkit/sweeps/notes.py" in note for note in made.notes)
    (own_sources / "dispatcher.py").write_text("")
    assert build(loaded).commit == clean + "+changes"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("classification_train.py", None, r"classification_train\.py is missing"),
        ("requirements.txt", None, r"requirements\.txt is missing"),
        ("segmentation_models.py", "def f(:\n", r"segmentation_models\.py:1: does not parse"),
        ("segmentation_models.py", "def f():\n    return 1\n", "no solution marker"),
        ("toolkit/runs.py", "x = (\n", r"toolkit/runs\.py:1: does not parse"),
        ("toolkit/runs.py", "x = 1\n# BEGIN SOLUTION 1.0: x\n", r"toolkit/runs\.py:2: .*not graded"),
        ("tests/helpers.py", "x = 1\n# END SOLUTION 1.0\n", r"tests/helpers\.py:2: .*not graded"),
        ("configs/quick.json", "{", r"configs/quick\.json is not JSON"),
        ("staff/assignments/course.toml", "due = ", r"course\.toml"),
        ("pyproject.toml", "[tool.ruff]\n", "occurs 0 times"),
    ],
)
def test_what_stops_a_release(own_sources, name, change, message):
    path = own_sources / name
    if change is None:
        path.unlink()
    else:
        path.write_text(change)
    with pytest.raises(UserError, match=message):
        build(recipe.load("project2", own_sources))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("ship", ["labs/hw5_pneumonia/hw5_dl.py"], "labs/hw5_pneumonia/hw5_dl.py is missing"),
        ("rename", {"nothing.py": "tests/x.py"}, "nothing.py does not ship"),
        ("rename", {"dispatcher.py": "LICENSE"}, "two files would be called LICENSE"),
        ("todo_table", "tests/nothing.py", "todo_table tests/nothing.py"),
        ("templates", {"README.md": "nothing.md"}, "names the template nothing.md"),
    ],
)
def test_mistakes_in_a_recipe_are_named(sources, setting, value, message):
    loaded = recipe.load("project2", sources)
    loaded.settings[setting] = [*loaded.settings["ship"], *value] if setting == "ship" else value
    with pytest.raises(UserError, match=re.escape(message)):
        build(loaded)


def test_the_solution_of_another_assignment_cannot_ship(sources):
    loaded = recipe.load("project2", sources)
    loaded.settings["labs"] = ["labs/hw5_pneumonia/*"]
    loaded.settings["ship"].append("labs/hw5_pneumonia/hw5_dl.py")
    with pytest.raises(UserError, match=r"ships labs/hw5_pneumonia/hw5_dl\.py, the solution of another assignment"):
        recipe.shipped_files(loaded, [*recipe.source_files(sources)[0], "labs/hw5_pneumonia/hw5_dl.py"])


def test_points_come_from_the_grader_and_disagreement_is_an_error(own_sources):
    loaded = recipe.load("project2", own_sources)
    points = handout.todo_points(loaded, read_graded(loaded))
    table = built_table(build(loaded).files)
    assert table == {todo: float(value) for todo, value in points.items()}
    loaded.points["todo"][0]["points"] += 1
    with pytest.raises(UserError, match=f"add up to {loaded.points['points'] + 1}"):
        build(loaded)
    loaded.points["todo"].pop(0)
    with pytest.raises(UserError, match=r"differ in TODO 1\.0"):
        build(loaded)


def built_table(files: dict[str, bytes]) -> dict[str, float]:
    """{TODO: points} as the student's own table says it."""
    rows = re.findall(r'^    Todo\("([\d.]+)", "[^"]*", ([\d.]+),', files["tests/todos.py"].decode(), re.MULTILINE)
    return {number: float(points) for number, points in rows}


def test_handout_states_every_fact(sources):
    text = built(sources).files["README.md"].decode()
    flat = " ".join(text.split())
    loaded = recipe.load("project2", sources)
    facts = ["encouraged", "discouraged", "conda create", "pip install -r requirements.txt", "Python 3.10 or newer"]
    facts += ["python check_installation.py", "utilities, plots, debugging, writing the report"]
    facts += [f"team of {loaded.course['team_size']}"]
    points = handout.todo_points(loaded, read_graded(loaded))
    parts = [sum(float(value) for todo, value in points.items() if todo.startswith(part)) for part in ("1.", "2.")]
    facts += [f"Part 1: what tissue is it? ({parts[0]:g} points)", f"Part 2: where is the box? ({parts[1]:g} points)"]
    facts += [
        f"Team analysis ({loaded.term['analysis_points']} points)",
        "about 32%",
        "more than 54%",
        "more than 90%",
        "more than 99%",
        f"({loaded.points['extra_points']} points)",
    ]
    facts += ["about 43%", "more than 94%", "more than 96%", "more than 97%", "99% is possible"]
    facts += ["How do the architectures compare", "Which design choices mattered"]
    due = loaded.term["due"]
    facts += [f"{due.day} {due:%B %Y}"]
    assert [fact for fact in facts if fact not in flat] == []
    assert "{{" not in text


def test_a_template_may_not_ask_for_an_unknown_fact():
    with pytest.raises(UserError, match="asks for nonsense; allowed: due"):
        handout.fill("{{nonsense}} {{due}} ${{ steps.x }}", {"due": "today"}, "README.md")


WORKFLOW = ".github/workflows/classroom.yml"


@pytest.mark.parametrize("name", recipe.assignments())
def test_classroom_workflow_has_a_step_for_each_todo(name, tmp_path):
    yaml = pytest.importorskip("yaml")
    loaded = recipe.load(name)
    content = build(loaded, classroom=True).files[WORKFLOW]
    # What GitHub takes as a workflow, by its published schema; without the machine it is refused.
    for text, accepted in ((content, True), (content.replace(b"    runs-on: ubuntu-latest\n", b""), False)):
        (tmp_path / "classroom.yml").write_bytes(text)
        call = ["-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", "classroom.yml"]
        done = subprocess.run([sys.executable, *call], cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert (done.returncode == 0) == accepted, done.stdout + done.stderr
    workflow = yaml.safe_load(content)
    steps = workflow["jobs"]["run-autograding-tests"]["steps"]
    graders = [step for step in steps if "command-grader" in step.get("uses", "")]
    assert sum(step["with"]["max-score"] for step in graders) == loaded.points["points"]
    reporter = steps[-1]
    assert reporter["with"]["runners"].split(",") == [step["id"] for step in graders]
    assert set(reporter["env"]) == {f"{step['id'].upper()}_RESULTS" for step in graders}


def write(folder, files):
    made = dict(files)
    made[release.RELEASE_FILE] = release.manifest(made, "project2", "c0ffee")
    return release.write_release(folder, made)


def tree(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_replaces_an_older_release_whole(tmp_path):
    folder = tmp_path / "new" / "starter"
    assert write(folder, {"a.py": b"1", "old/b.py": b"2"}) is None
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/a.pyc").write_bytes(b"cache")
    assert write(folder, {"a.py": b"3"}) is None
    assert tree(folder) == {"a.py", "RELEASE.json"}
    assert [path.name for path in folder.parent.iterdir()] == ["starter"]


def test_work_in_an_older_release_is_kept(tmp_path):
    folder = tmp_path / "starter"
    write(folder, {"a.py": b"1"})
    (folder / "a.py").write_bytes(b"my work")
    kept = write(folder, {"a.py": b"2"})
    assert (kept / "a.py").read_bytes() == b"my work"
    assert (folder / "a.py").read_bytes() == b"2"


@pytest.mark.parametrize("content", [{"notes.txt": "mine"}, {"RELEASE.json": "{}"}, {"RELEASE.json": "[1"}])
def test_refuses_a_folder_of_something_else(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="not empty and no older release"):
        write(tmp_path, {"a.py": b"1"})
    assert tree(tmp_path) == set(content)


def test_refuses_a_file_and_a_link(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(UserError, match="is not a folder"):
            write(tmp_path / name, {"a.py": b"1"})


@pytest.mark.parametrize("exchange", [True, False], ids=["one step", "two steps"])
def test_a_failed_write_leaves_the_older_release(tmp_path, monkeypatch, exchange):
    """A disk that refuses: a file where a folder must be made, or a rename that fails."""
    folder = tmp_path / "starter"
    write(folder, {"a.py": b"1"})
    with pytest.raises(OSError):
        release.write_release(folder, {"a.py": b"2", "x": b"", "x/y": b""})
    if not exchange:
        monkeypatch.setattr(release, "RENAME_EXCHANGE", 1 << 30)  # a flag that no kernel knows
    write(folder, {"a.py": b"3"})
    assert (folder / "a.py").read_bytes() == b"3"
    assert [path.name for path in tmp_path.iterdir()] == ["starter"]


def test_commands_end_with_one_line_and_2(tmp_path):
    (tmp_path / "mine").write_text("")
    for arguments, message in (
        (("staff.make_starter", "--out", tmp_path), "not empty and no older release"),
        (("staff.make_starter", "--out", tmp_path / "x", "--assignment", "hw9"), "allowed: hw5, project2"),
        (("staff.make_starter", "--out", tmp_path / "x", "--student", "s1"), "unrecognized arguments: --student s1"),
        (("staff.check_starter", tmp_path), "is not a release"),
    ):
        result = command(*arguments)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
    assert tree(tmp_path) == {"mine"}
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    ("late", "said"),
    [
        ({}, ""),
        ({"percent_per_day": 5}, "Each day or part of a day costs 5% of the points earned."),
        (
            {"percent_per_day": 10, "free_days": 3, "hard_end_days": 7},
            "You have 3 free days in the term, used up in the order of the due dates; after that, each day "
            "or part of a day costs 10% of the points earned; work that is more than 7 days late earns nothing.",
        ),
        ({"hard_end_days": 0}, "Work that is more than 0 days late earns nothing."),
    ],
)
def test_students_are_told_what_late_work_costs(late, said):
    assert handout.late_work(late) == said


@pytest.mark.parametrize(("assignment", "page"), [("project2", "README.md"), ("hw5", "labs/hw5_pneumonia/handout.md")])
def test_both_handouts_say_what_late_work_costs(assignment, page):
    wanted = recipe.load(assignment, recipe.ROOT)
    wanted = dataclasses.replace(wanted, course={**wanted.course, "late": {"percent_per_day": 17}})
    text = handout.documents(wanted, read_graded(wanted), classroom=False)[page].decode()
    assert f"**Late work.** {handout.late_work(wanted.course['late'])}" in text
