"""Downloads of four sites become folders by student, and a due date chooses the commit of a repository."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest

from staff.gradebook import collect as collecting
from staff.gradebook import grade_class
from staff.gradebook.handed_in import find_entries
from staff.gradebook.sums import compute
from staff.gradebook.term import Term
from staff.grader import assignment as assignments
from staff.grader import facts
from staff.grader.submission import read_submission
from staff.tests.gradebook import terms
from toolkit.errors import UserError
from toolkit.sweeps import jobs

PROJECT = assignments.load("project2")
FILE = "classification_models.py"


@pytest.fixture
def term(tmp_path) -> Path:
    return terms.make(tmp_path / "term")


def put(path: Path, text: str = "x = 1\n", when: float | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if when:
        os.utime(path, (when, when))
    return path


def noted(term: Path) -> dict:
    return json.loads((term / "project2-handed_in.json").read_text())


def collected(term: Path, site: str, folder: Path) -> str:
    return collecting.collect(Term(term), site, folder, "project2")


def test_moodle(term, tmp_path):
    """The worksheet knows times and whose a number is, also where two people share a name."""
    folder = tmp_path / "download"
    put(folder / f"Ada Lovelace_12_assignsubmission_file/{FILE}", when=1e9)
    put(folder / f"Somebody Else_13_assignsubmission_file_{FILE}")
    put(folder / f"Stranger_77_assignsubmission_file_{FILE}")
    head = "Identifier,Full name,Email address,Status,Grade,Last modified (submission)\n"
    rows = 'Participant 12,Ada,ada@uni.example,,,"Friday, 12 March 2027, 11:59 PM"\n'
    rows += "Participant 13,Émile,emile@uni.example,,,-\n"
    put(folder / "Grades-Project 2-345.csv", head + rows)
    text = collected(term, "moodle", folder)
    assert "2 of 4 students, 1 with the site's time" in text
    assert "unknown, not copied: Stranger_77" in text
    assert "handed in nothing: s3, s4" in text
    assert (term / f"project2/s1/{FILE}").stat().st_mtime == 1e9
    assert sorted(path.name for path in (term / "project2").iterdir()) == ["s1", "s2"]
    written = facts.in_zone(datetime(2027, 3, 12, 23, 59), terms.ZONE)
    assert datetime.fromisoformat(noted(term)["students"]["s1"]["when"]).timestamp() == written.timestamp()
    assert [noted(term)["students"][s]["site_id"] for s in ("s1", "s2")] == ["12", "13"]
    assert compute(Term(term)).unknown == [("project2", "Stranger_77")]
    entries, others = find_entries(term / "project2", tmp_path / "out")
    assert ([name for name, _ in entries], others) == (["s1", "s2"], [])
    put(folder / f"Ada Lovelace_12_assignsubmission_file/{FILE}", "x = 2\n")  # she handed in again
    collected(term, "moodle", folder)
    assert (term / f"project2/s1/{FILE}").read_text() == "x = 2\n"


@pytest.mark.parametrize(
    ("site", "names"),
    [
        ("moodle", ["Team Blue_12_assignsubmission_file"]),  # by group, with the group's number
        (
            "moodle",
            ["Team Blue-Ada Lovelace_31_assignsubmission_file", "Team Blue-Émile Borel_32_assignsubmission_file"],
        ),
        ("canvas", [f"teamblue_345_678_{FILE}"]),  # 345 is one member's number
    ],
)
def test_a_teams_work_is_every_members(term, tmp_path, site, names):
    """However a site names it; a group's number may be the participant number of another student."""
    roster = term / "roster.csv"
    roster.write_text(roster.read_text().replace(",blue,A,", ",Team Blue,A,345", 1).replace(",blue,", ",Team Blue,"))
    for name in names:
        put(tmp_path / "download" / (name if name.endswith(".py") else f"{name}/{FILE}"))
    head = "Identifier,Full name,Email address,Status,Grade,Last modified (submission)\n"
    people = (("31", "ada"), ("32", "emile"), ("12", "marie"))
    rows = "".join(
        f'Participant {number},x,{who}@uni.example,,,"{"-" if who == "marie" else "Friday, 12 March 2027, 11:59 PM"}"\n'
        for number, who in people
    )
    if site == "moodle":
        put(tmp_path / "download/Grades.csv", head + rows)
    assert "2 of 4 students" in collected(term, site, tmp_path / "download")
    assert sorted(path.name for path in (term / "project2").iterdir()) == ["s1", "s2"]
    if site == "moodle":
        students = noted(term)["students"]
        assert [students[who]["site_id"] for who in ("s1", "s2")] == ["31", "32"]
        assert all(students[who]["when"].startswith("2027-03-12T23:59") for who in ("s1", "s2"))


def test_an_odd_folder_stops_nobody(term, tmp_path, monkeypatch):
    """A pipe, folders without end, a file that cannot be copied: the rest is there, and whose work is not is said."""
    ada = tmp_path / "download/Ada Lovelace_12_assignsubmission_file"
    put(ada / FILE)
    os.mkfifo(ada / "pipe")
    deep = ada
    for _ in range(1200):
        deep = deep / "d"
        deep.mkdir()
    put(tmp_path / f"download/Émile Borel_13_assignsubmission_file_{FILE}")
    put(tmp_path / f"download/Marie Curie_14_assignsubmission_file_{FILE}")
    copied = collecting.copy

    def copy(source, target) -> None:
        if "Borel" in source.name:
            raise PermissionError(13, "Permission denied")
        copied(source, target)

    monkeypatch.setattr(collecting, "copy", copy)
    try:
        text = collected(term, "moodle", tmp_path / "download")
        assert sorted(path.name for path in (term / "project2/s1").iterdir()) == [FILE, "d"]
        assert "not copied: Émile Borel_13: [Errno 13] Permission denied" in text
        assert "2 of 4 students" in text
    finally:  # what pytest removes some runs later may not be so deep
        subprocess.run(["rm", "-rf", tmp_path / "download", term / "project2"], check=True)


def test_what_lies_in_the_term_already_counts(term, tmp_path):
    """Put there by hand, in any form: whose it is, its name says."""
    for name in ("s2.tar.gz", "s3.zip", "marie@uni.example", ".s4.new"):
        put(term / "project2" / name)
    put(tmp_path / f"download/Ada Lovelace_12_assignsubmission_file_{FILE}")
    put(tmp_path / "download/__MACOSX/._Ada Lovelace_12_assignsubmission_file_x")
    lines = collected(term, "moodle", tmp_path / "download").splitlines()
    assert lines[:2] == ["project2: 3 of 4 students, 0 with the site's time", "handed in nothing: s4"]


def test_what_a_system_adds_makes_nobody_late(tmp_path):
    put(tmp_path / FILE, when=1000)
    for name in (".DS_Store", "desktop.ini", f"{FILE}:Zone.Identifier"):
        put(tmp_path / name, when=9000)
    assert facts.last_change(tmp_path) == 1000
    put(tmp_path / "sub/new.py", when=2000)
    assert facts.last_change(tmp_path) == 2000


def test_canvas(term, tmp_path):
    folder = tmp_path / "download"
    for name in (f"lovelaceada_345_678_{FILE}", f"lovelaceada_345_679_{FILE.replace('.py', '-1.py')}"):
        put(folder / name, when=terms.DUE - terms.DAY)
    put(folder / f"curiemarie_LATE_346_680_{FILE}", when=terms.DUE - 100)
    collected(term, "canvas", folder)
    assert len(list((term / "project2/s1").iterdir())) == 2
    assert noted(term)["students"]["s3"]["marked_late"]
    assert noted(term)["students"]["s3"]["site_id"] == ""  # 346 is no participant number of Moodle
    results = terms.results_of("project2")
    terms.graded(term, "project2", {"s1": results, "s3": results})
    open_ = {student: mine["project2"].open for student, mine in compute(Term(term)).grades.items()}
    assert "canvas marks it late, its files do not: decide late_days" in open_["s3"]
    assert len(open_["s1"]) == 1


def test_gradescope(term, tmp_path):
    """A submission of two students belongs to both; names cannot lead out of the folder."""
    folder = tmp_path / "download"
    put(folder / f"submission_1/{FILE}")
    put(folder / f"submission_2/{FILE}")
    put(tmp_path / f"secret/{FILE}")
    people = "  :submitters:\n  - :name: A\n    :sid: s1\n  - :name: B\n    :sid:\n    :email: emile@uni.example\n"
    when = "  :created_at: 2027-03-13 01:02:03.4 +02:00\n"
    other = "submission_2:\n  :submitters:\n  - :name: Eve\n../secret:\n  :submitters:\n  - :sid: s3\n"
    put(folder / "submission_metadata.yml", f"submission_1:\n{people}{when}{other}")
    text = collected(term, "gradescope", folder)
    assert "unknown, not copied: submission_2" in text
    assert sorted(path.name for path in (term / "project2").iterdir()) == ["s1", "s2"]
    time = datetime.fromisoformat(noted(term)["students"]["s2"]["when"])
    assert time == datetime(2027, 3, 12, 23, 2, 3, 400000, timezone.utc)
    put(folder / "submission_metadata.yml", "a: !ruby/object:X {}\n")
    with pytest.raises(UserError, match=r"submission_metadata\.yml cannot be read"):
        collected(term, "gradescope", folder)


def commit(folder: Path, text: str, when: str) -> str:
    put(folder / FILE, text)
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x"]
    environment = os.environ | {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "work"]):
        subprocess.run([*git, *words], check=True, env=environment)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_classroom_and_the_last_commit_in_time(term, tmp_path):
    """Accounts by classroom_roster.csv, a team's repository for each member, and what a due date leaves out."""
    folder = tmp_path / "project2-submissions"
    early = commit(folder / "project-2-ada-l", "x = 1\n", terms.at(-0.6))
    middle = commit(folder / "project-2-ada-l", "x = 2\n", terms.at(2.4))
    late = commit(folder / "project-2-ada-l", "x = 3\n", terms.at(30.4))
    put(folder / "project-2-ada-l" / FILE, "not committed\n")
    commit(folder / "project-2-red", "x = 9\n", terms.at(7.4))
    put(folder / "classroom_roster.csv", "identifier,github_username,github_id,name\nada@uni.example,ada-l,1,\n")
    text = collected(term, "classroom", folder)
    assert "3 of 4 students" in text

    def graded() -> dict:
        found, _ = find_entries(term / "project2", tmp_path / "out")
        return {entry.name: entry for entry in grade_class.read_entries(found, PROJECT, "grader", Term(term))}

    entries = graded()
    ada, marie = entries["s1"], entries["s3"]
    assert (ada.commit, [one.number for one in ada.later_commits]) == (early, [late, middle])
    assert early[:12] in ada.notes[0]
    assert terms.at(-0.6)[:10] in ada.notes[0]
    assert ada.notes[1].startswith(f"not graded, because later: commit {late[:12]} of {terms.at(30.4)[:10]}")
    assert "there is none before" in marie.notes[0]
    assert entries["s4"].digest == marie.digest  # the same team
    assert read_submission(term / "project2/s1", PROJECT.files, ada.commit).files == {FILE: b"x = 1\n"}
    with pytest.raises(UserError, match="commit is 'abc', which the repository does not have"):
        read_submission(term / "project2/s1", PROJECT.files, "abc")

    terms.decide(term, 'kind = "extension"; student = "s1"; days = 4')
    assert graded()["s1"].commit == middle
    jobs = {"s1": terms.results_of("project2"), "s3": terms.results_of("project2")}
    terms.graded(term, "project2", jobs)
    path = term / "project2-grades/grades.json"
    rows = json.loads(path.read_text())
    for row, when in zip(rows["rows"], (terms.at(2.4), terms.at(7.4)), strict=True):
        row["commit"], row["commit_time"] = middle, datetime.fromisoformat(when).timestamp()
    path.write_text(json.dumps(rows))
    grades = compute(Term(term)).grades
    assert grades["s1"]["project2"].late.days == 0
    assert grades["s3"]["project2"].late.percent == 100


def test_a_class_in_a_term_is_graded_by_commits_and_summed_up(term, tmp_path, monkeypatch, capsys):
    """grade_class as the staff calls it, with the grader's processes replaced by results: decisions are applied."""
    early = commit(tmp_path / "clones/project2-s1", "x = 1\n", terms.at(-0.6))
    commit(tmp_path / "clones/project2-s1", "x = 2\n", terms.at(30.4))
    collected(term, "classroom", tmp_path / "clones")
    put(term / f"project2/s2/{FILE}", when=terms.DUE - 100)
    terms.decide(term, 'kind = "override"; student = "s1"; points = 31')
    asked = {}

    def grade_all(entries, arguments, out) -> bool:
        for entry in entries:
            results = terms.results_of("project2")
            results["submission"]["sha256"] = entry.digest
            put(out / "jobs" / entry.job / "results.json", json.dumps(results))
            jobs.write_status(str(out / "jobs" / entry.job), jobs.Status(state="done"))
            asked[entry.name] = entry.commit if entry.commit_time else ""
        return False

    monkeypatch.setattr(grade_class, "grade_all", grade_all)
    monkeypatch.setattr("sys.argv", ["grade_class", str(term / "project2")])
    assert grade_class.main() == 0
    assert asked == {"s1": early, "s2": ""}
    assert "project2: 2 graded, 2 nothing handed in" in capsys.readouterr().out
    page = (term / "draft/feedback/project2/s1.html").read_text()
    assert f"Sum: 31 of {terms.MOST:g}" in page
    assert f"graded: commit {early[:12]}" in page
    (term / "project2").rename(term / "hw5")
    monkeypatch.setattr("sys.argv", ["grade_class", str(term / "hw5")])
    with pytest.raises(UserError, match="folder is hw5, and --assignment is project2; add --assignment hw5"):
        grade_class.main()
