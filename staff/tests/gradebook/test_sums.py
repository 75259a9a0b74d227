"""The sum: what was computed and what counts, for everybody, by hand-made oracles."""

from __future__ import annotations

import json
import os
import re

import pytest

from staff.gradebook import audit, changes, commands, pages, summing
from staff.gradebook.roster import Roster, Student
from staff.gradebook.roster import read as read_roster
from staff.gradebook.sums import EXCUSED, NOT_GRADED, NOTHING, compute
from staff.gradebook.term import Term
from staff.grader import assignment as assignments
from staff.tests.gradebook import terms
from staff.tests.gradebook.terms import CODE, FULL, MOST, PROJECT
from toolkit.errors import UserError

CORE = "test_1_training.py::test_trains"  # of TODO 1.4, which has no points without it
TODO = PROJECT.find(CORE)[0]


@pytest.fixture
def term(tmp_path):
    """Ada has all points, Émile all but a TODO, Marie came two days late, the fourth handed in nothing."""
    path = terms.make(tmp_path / "term")
    everything, less = terms.results_of("project2", files="a"), terms.results_of("project2", [CORE], files="b")
    terms.graded(path, "project2", {"s1": everything, "s2": less, "s3": everything}, {"s3": 1.5})
    return path


def grades_of(term) -> dict:
    return {student: mine["project2"] for student, mine in compute(Term(term)).grades.items()}


def test_everybody_has_a_row(term):
    grades = grades_of(term)
    assert [grade.state for grade in grades.values()] == ["graded", "graded", "graded", NOTHING]
    assert grades["s1"].total == FULL  # with the extra points; the report is missing, not 0
    assert grades["s1"].open == ["manual points (report) not given"]
    assert grades["s2"].total == FULL - TODO.points
    assert (grades["s4"].total, grades["s4"].open[0]) == (None, NOTHING)


def test_what_people_decide(term):
    """Check, TODO, sum, rubric of a team, excuse: each changes what counts and leaves what was computed."""
    terms.decide(term, f'kind = "override"; student = "s2"; check = "{CORE}"; points = 1.25')
    assert grades_of(term)["s2"].code == CODE - TODO.points + 1.25
    terms.decide(term, 'kind = "override"; student = "s2"; todo = "1.4"; points = 2.5')
    terms.decide(term, 'kind = "rubric"; team = "blue"; item = "report: evidence"; points = 7')
    terms.decide(term, 'kind = "rubric"; team = "blue"; item = "report: figures"; points = 4.5')
    grade = grades_of(term)["s2"]
    assert (grade.computed_code, grade.code) == (CODE - TODO.points, CODE - TODO.points + 2.5)
    assert grade.manual == 11.5
    assert grade.open == ["3 of 5 items of the report are not judged yet"]
    for item in ("architectures", "performance", "limits"):
        terms.decide(term, f'kind = "rubric"; team = "blue"; item = "report: {item}"; points = 0')
    grade = grades_of(term)["s2"]
    assert (grade.manual, grade.open) == (11.5, [])
    assert (grade.computed, grade.total) == (FULL + 11.5 - TODO.points, FULL + 14 - TODO.points)
    assert grades_of(term)["s1"].total == FULL + 11.5
    terms.decide(term, 'kind = "override"; student = "s2"; points = 33')
    terms.decide(term, 'kind = "excuse"; student = "s3"; reason = "ill"')
    grades = grades_of(term)
    assert (grades["s2"].total, grades["s2"].computed) == (33, FULL + 11.5 - TODO.points)
    assert (grades["s3"].state, grades["s3"].total) == (EXCUSED, None)
    assert compute(Term(term)).term_sum("s3") == (0, 0, [])
    page = pages.feedback(grades["s2"])
    given = f"the grader gave {CODE - TODO.points:g}"
    for text in (f"Sum: 33 of {MOST:g}", given, "decided: the sum", "why (ta)", "evidence"):
        assert text in page


def test_what_waits_for_a_grading_is_no_hand_in_of_nothing(term):
    """Neither 'nothing handed in' nor a sum without code: s4 and, with a newer file, s1 wait for the grader."""
    terms.decide(term, 'kind = "rubric"; team = "red"; item = "report: evidence"; points = 5')
    assert grades_of(term)["s4"].total == 5  # nothing handed in: the team's report counts
    for student, when in (("s1", terms.DUE - terms.DAY), ("s2", terms.DUE), ("s4", terms.DUE)):
        file = term / "project2" / student / "segmentation_models.py"
        file.parent.mkdir(parents=True)
        file.write_text("x = 1\n")
        os.utime(file, (when, when))
    grades = grades_of(term)
    assert (grades["s4"].state, grades["s4"].total, grades["s4"].open[0]) == (NOT_GRADED, None, "not graded")
    again = "handed in again since it was graded"
    assert [again in grades[student].open for student in ("s1", "s2", "s3")] == [False, True, False]


def test_an_answer_that_was_read_for_others_only_is_open(tmp_path):
    """Answers give no points by themselves, so nothing else tells that one was forgotten."""
    path = terms.make(tmp_path / "term")
    given = {student: terms.results_of("hw5", files=student) for student in ("s1", "s2", "s3")}
    for student, results in given.items():
        results["answers"] = {"1.2": "because", "1.3": "so"} if student != "s3" else {"1.3": "so"}
    terms.graded(path, "hw5", given)
    about = 'assignment = "hw5"; item = "answer 1.2"'
    terms.decide(path, f'kind = "rubric"; student = "s1"; points = -1.5; {about}')
    grades = {student: mine["hw5"] for student, mine in compute(Term(path)).grades.items()}
    assert [grades[student].open for student in ("s1", "s2", "s3")] == [[], ["not read yet: answer 1.2"], []]
    assert '<td>read by a person</td><td class="number">-1.5</td>' in pages.feedback(grades["s1"])
    terms.decide(path, f'kind = "override"; student = "s2"; points = 90; {about.partition(";")[0]}')
    assert compute(Term(path)).grades["s2"]["hw5"].open == []


def test_a_decision_counts_without_hand_ins(tmp_path):
    path = terms.make(tmp_path / "term")
    assert "no hand-ins" in summing.sum_up(path)
    terms.decide(path, 'kind = "override"; student = "s1"; points = 33')
    assert grades_of(path)["s1"].total == 33
    assert "no hand-ins" not in summing.sum_up(path)


@pytest.mark.parametrize(
    ("days_late", "decision", "days", "free", "percent"),
    [
        (-0.1, "", 0, 0, 0),
        (0.0005, "", 0, 0, 0),  # 23:59:43: the minute counts
        (0.01, "", 1, 1, 0),
        (3.5, "", 4, 3, 10),
        (6.9, "", 7, 3, 40),
        (7.1, "", 8, 3, 100),  # after the hard end
        (7.1, 'kind = "extension"; student = "s1"; days = 2', 6, 3, 30),
        (7.1, 'kind = "late_days"; student = "s1"; days = 1', 1, 1, 0),
    ],
)
def test_late_days(term, days_late, decision, days, free, percent):
    """course.toml: 10% a day, 3 days free, an end after 7."""
    results = terms.results_of("project2")
    terms.graded(term, "project2", {"s1": results}, {"s1": days_late})
    if decision:
        terms.decide(term, decision)
    grade = grades_of(term)["s1"]
    assert (grade.late.days, grade.late.free, grade.late.percent) == (days, free, percent)
    assert grade.total == pytest.approx(FULL * (1 - percent / 100))
    assert grade.late.text() in pages.feedback(grade)


def test_free_days_are_used_once(term):
    """In the order of the due dates, also where the later assignment is later still."""
    terms.graded(term, "project2", {"s1": terms.results_of("project2")}, {"s1": 1.5})
    terms.graded(term, "hw5", {"s1": terms.results_of("hw5")}, {"s1": 7 + 2.5})
    mine = compute(Term(term)).grades["s1"]
    assert [(g.late.days, g.late.free, g.late.percent) for g in mine.values()] == [(2, 2, 0), (3, 1, 20)]
    whole = assignments.load("hw5").points
    assert mine["hw5"].total == 0.8 * whole
    assert compute(Term(term)).term_sum("s1")[:2] == (FULL + 0.8 * whole, MOST + whole)


def test_a_term_is_published_and_changed(term, capsys):
    """Decisions outlive a grading; who gets other points is shown before it is published; the log tells it all."""
    terms.decide(term, 'kind = "override"; student = "s1"; todo = "1.4"; points = 1')
    terms.decide(term, 'kind = "rubric"; student = "s2"; item = "report: limits"; points = 0; reason = "as before"')
    summing.publish(term)
    terms.graded(
        term, "project2", {s: terms.results_of("project2", files="c") for s in ("s1", "s2", "s3")}, {"s3": 1.5}
    )
    terms.decide(
        term, 'kind = "regrade"; student = "s2"; todo = "1.4"; comment = "please look"; reason = "our mistake"'
    )
    text = summing.sum_up(term)
    assert f"changed: s2 project2: {FULL - TODO.points:g} -> {FULL:g} (TODO 1.4: 0 → {TODO.points:g})" in text
    assert "s1 project2" not in text
    assert grades_of(term)["s1"].total == FULL - TODO.points + 1
    page = (term / "draft/changes.html").read_text()
    assert "Grades that differ from the published ones: 1 (1 higher, 0 lower)" in page
    assert re.search("s2 asked .*please look.*our mistake", page)
    assert "as before" not in page  # it has nothing to do with what changed
    assert json.loads((term / "published" / changes.SNAPSHOT).read_text())["grades"]["s2"]["project2"]["total"] < FULL
    summing.publish(term)
    assert "changed:" not in summing.sum_up(term)
    commands.history_main([str(term), "emile@uni.example"])
    lines = capsys.readouterr().out.splitlines()
    kinds = [line.split()[2] for line in lines]
    assert kinds == ["decision", "graded", "published", "decision", "graded", "published"]
    assert "seed 7" in lines[1]
    assert "grader 0123456789ab" in lines[1]


def test_who_left_the_roster_after_publishing_is_shown(term):
    summing.publish(term)
    roster = (term / "roster.csv").read_text().splitlines(keepends=True)
    (term / "roster.csv").write_text("".join(line for line in roster if not line.startswith("s2,")))
    assert f"changed: s2 project2: {FULL - TODO.points:g} -> none (no longer in roster.csv)" in summing.sum_up(term)
    assert "no longer in roster.csv" in (term / "draft/changes.html").read_text()


def test_what_was_published_survives_a_kill_between_the_renames(term):
    summing.publish(term)
    (term / "published").rename(term / ".published.old")
    terms.decide(term, 'kind = "override"; student = "s1"; points = 33')
    assert f"changed: s1 project2: {FULL:g} -> 33" in summing.publish(term)


def test_the_log_notices_what_was_changed(term):
    terms.decide(term, 'kind = "excuse"; student = "s1"')
    summing.sum_up(term)
    path = term / "audit.jsonl"
    assert audit.read(path)[1] == []
    (term / "decisions.toml").write_text("")  # deleted by hand
    summing.sum_up(term)
    assert [entry["event"] for entry in audit.read(path)[0]][-1] == "decision removed"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0].replace(b'"s1"', b'"s2"'), *lines[1:]])[:-5])
    entries, faults = audit.read(path)
    assert len(faults) == 2
    assert "line 2 does not follow" in faults[0]
    audit.append(path, [{"event": "published", "student": "s1", "assignment": "project2", "before": 1, "total": 2}])
    assert len(audit.read(path)[0]) == len(entries) + 1


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        ('kind = "excuse"; student = "s9"', "line 1: student is 's9', who is not in roster.csv"),
        (
            'kind = "rubric"; team = "blue"; item = "figures"; points = 1',
            "line 1: item is 'figures'; allowed: report: arch",
        ),
        ('kind = "excuse"; team = "green"', "line 1: team is 'green'; allowed: blue, red"),
        ('kind = "excuse"; student = "s1"; assignment = "hw9"', "line 1: assignment is 'hw9'; allowed: hw5, project2"),
        ('kind = "override"; student = "s1"; points = 1; todo = "9.9"', "line 1: todo is '9.9'; allowed: 1.0"),
        ('kind = "override"; student = "s1"; points = 1; check = "a::b"', "line 1: check is 'a::b'; allowed: test_"),
    ],
)
def test_a_decision_about_nothing_is_named(term, decision, message):
    terms.decide(term, decision)
    with pytest.raises(UserError, match=re.escape(f"decisions.toml, {message}")):
        Term(term)


def test_decide_checks_before_it_writes(term):
    words = [str(term), "override", "--student", "Ada Lovelace", "--points", "3", "--reason", "x", "--who", "eve"]
    with pytest.raises(UserError, match="todo is '7'"):
        commands.decide_main([*words, "--todo", "7"])
    assert not (term / "decisions.toml").exists()
    commands.decide_main([*words, "--todo", "1.4"])
    assert grades_of(term)["s1"].code == CODE - TODO.points + 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,email\nA,b\n", "line 1: id is missing"),
        ("id,name,phone\n", "line 1: unknown column 'phone'; allowed: id, name, email"),
        ("id,name\n1,A\n\n1,B\n", "line 4: id '1' is also that of line 2"),
        ("id,name,email\n1,A,x@y\n2,B,X@y\n", "line 3: email 'X@y' is also that of line 2"),
        ("id,name\n../x,A\n", "line 2: id is '../x'"),
        ("id,name\n1\n", "line 2: name is empty"),
        ("id,name\n", "holds no student"),
    ],
)
def test_a_bad_roster_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "roster.csv").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        read_roster(tmp_path / "roster.csv")


def test_who_a_name_belongs_to(tmp_path):
    (tmp_path / "roster.csv").write_bytes(
        "\ufeffID;Name;E-mail;LMS id\n7;Zoë de Vries;z@x;12\n8;Li Wei;w@x;345\n".encode()
    )
    roster = read_roster(tmp_path / "roster.csv")
    names = {"7": "7", "Z@X": "7", "zoe de vries": "7", "Vries, Zoë de": "7", "devrieszoe_12": "7", "weili_345": "8"}
    names |= {"Li Wei_9999": "8", "Zoë de Vries_345": None, "Eve": None, "": None, "_": None}
    assert {name: getattr(roster.find(name), "id", None) for name in names} == names
    twins = Roster([Student("1", "Kim Lee"), Student("2", "Kim Lee")])
    assert twins.find("Kim Lee_5") is None
