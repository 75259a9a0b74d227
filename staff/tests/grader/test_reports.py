"""What is written from results: Gradescope's JSON, JUnit XML, the student's page; none of it tells a secret."""

from __future__ import annotations

import copy
import html
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from staff.gradebook import class_report
from staff.grader import assignment, checks, grade
from staff.grader.checks import Outcome
from staff.grader.reports import feedback, gradescope, junit, page

HOSTILE = '<script>alert(1)</script>\x1b[2J\x00\u202e]]> & "quoted"'


@pytest.fixture(scope="module")
def results():
    """Results of a made-up run with every status in it, and text that a hostile submission could have caused."""
    project = assignment.load("project2")
    statuses = ["passed", "failed", "not_started", "skipped", "grader_error"]
    outcomes = {}
    for number, check in enumerate(check for todo in project.todos for check in todo.checks):
        todo, _ = project.find(check.test)
        status = "passed" if todo.id in ("1.0", "1.1") else statuses[number % 5]
        message = "" if status == "passed" else f"expected this, got {HOSTILE}"
        outcome = Outcome(todo, check, status, message, frames=[f"classification_models.py:3 in forward: {HOSTILE}"])
        outcome.measured = [{"gate": "acc_cnn", "threshold": 0.45, "values": [0.4, 0.44]}] * (number % 7 == 0)
        outcomes[check.test] = outcome
    return {
        "assignment": "project2",
        "title": project.title,
        **checks.score_all(project, outcomes),
        "submission": {
            **{"sha256": "0" * 64, "files": [], "ignored": [f"{HOSTILE}.txt"] * 12, "notes": ["a note"]},
            **{"name": HOSTILE, "due": "2027-03-12 23:59", "last_change": 1.8e9, "hashes": {"a.py": "5" * 64}},
        },
        "grader": {"commit": "c0ffee", "python": "3.11.7", "torch": "2.15"},
        "partial": "only TODO 1.0",
        "data": {"name": "pathmnist-sample", "kind": "sample", "notes": []},
        "sandbox": {"layer": "bwrap", "in_force": ["bwrap"], "not_available": []},
        "seconds": 12.5,
        "staff_only": {"seed": 1234567890123, "restarts": 0, "printed": "printed-by-student", "grader_errors": []},
    }


def checks_of(results: dict) -> list[dict]:
    return [check for todo in results["todos"] for check in todo["checks"]]


def test_gradescope_has_what_the_site_reads(results):
    made = json.loads(json.dumps(gradescope.render(results), allow_nan=False))
    assert made["score"] == results["score"] + results["extra"]
    assert sum(test["score"] for test in made["tests"]) == pytest.approx(made["score"])
    assert sum(test["max_score"] for test in made["tests"]) == results["max_score"]  # extra credit comes on top
    assert [test["number"] for test in made["tests"]] == [todo["id"] for todo in results["todos"]]
    assert {test["status"] for test in made["tests"]} <= {"passed", "failed"}
    assert {test["output_format"] for test in made["tests"]} == {"text"}  # nothing of a student's is read as markup
    assert made["stdout_visibility"] == "hidden"


def test_a_failure_of_the_grader_is_no_score(results):
    assert gradescope.failure("not graded").keys() == {"output", "stdout_visibility", "visibility"}
    assert gradescope.nothing_handed_in("the archive is damaged")["score"] == 0.0
    broken = results | {"staff_only": results["staff_only"] | {"grader_errors": ["test_x: NameError in /root/x.py"]}}
    shown = grade.for_gradescope(broken)
    assert "score" not in shown
    assert "tests" not in shown
    assert "/root" not in json.dumps(shown)
    assert "score" in grade.for_gradescope(results)


def test_junit_counts_and_parses(results):
    root = ElementTree.fromstring(junit.render(results))
    statuses = [check["status"] for check in checks_of(results)]
    total = {name: sum(int(suite.get(name)) for suite in root) for name in ("tests", "failures", "errors", "skipped")}
    assert total == {
        "tests": len(statuses),
        "failures": statuses.count("failed") + statuses.count("not_started"),
        "errors": statuses.count("grader_error"),
        "skipped": statuses.count("skipped"),
    }
    assert len(root.findall(".//failure")) == total["failures"]
    assert len(root.findall(".//error")) == total["errors"]
    assert len(root.findall(".//testcase")) == total["tests"]


class Tags(HTMLParser):
    """Collects tags; complains about one that is closed and not open."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_runs_nothing(results):
    text = page.render(results)
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "script" not in tags.seen
    assert tags.seen.count("details") == len(results["todos"])
    assert "http" not in text  # needs no network
    assert f"{results['score']:g} of {results['max_score']:g}" in text
    for said in ("2027-03-12 23:59", "2027-01-15", "5" * 64, "commit c0ffee, Python 3.11.7", "Partial grading"):
        assert said in text  # whose work, when, which files, what graded it, and that it is not a grade
    assert text.count(html.escape(HOSTILE).replace("\n", " ")) > 3


def luminance(colour: str) -> float:
    """Relative luminance of '#rrggbb' (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


SITE = page.COLOURS + (Path(__file__).resolve().parents[3] / "docs/site/assets/site.css").read_text(encoding="utf-8")


def test_results_say_which_data_they_belong_to():
    said = {
        kind: feedback.data_note({"data": {"kind": kind, "name": "bloodmnist-sample"}})
        for kind in ("drawn", "sample", "bloodmnist-sample")
    }
    assert said["drawn"] == "The checks drew their data for this submission."
    assert "bundled sample of PathMNIST" in said["sample"]
    assert said["bloodmnist-sample"] == "Trained models were tested on bloodmnist-sample."


@pytest.mark.parametrize("style", [page.STYLE, class_report.STYLE, SITE], ids=["feedback", "overview", "course site"])
def test_every_text_can_be_read(style):
    """Contrast of at least 4.5 to 1, in light and dark, and no text is made fainter or coloured in another way."""
    grounds = [dict(re.findall(r"--(\w+): (#\w{6});", part)) for part in style.split("prefers-color-scheme: dark")]
    assert [len(colours) for colours in grounds] == [10, 10]
    for colours in grounds:
        for ground in ("page", "box"):
            for name in set(colours) - {"page", "box", "line"}:
                light, dark = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, ground)
    assert "opacity" not in style
    used = set(re.findall(r"(?<![\w-])color: ([^;]+);", style))
    assert used <= {f"var(--{name})" for name in set(grounds[0]) - {"page", "box", "line"}}


def test_verdict_cause_hint_and_question_differ(results):
    todo = copy.deepcopy(
        next(todo for todo in results["todos"] if any(c["status"] == "failed" for c in todo["checks"]))
    )
    failed = next(check for check in todo["checks"] if check["status"] == "failed")
    failed |= {"title": "the title", "message": "the cause", "hint": "think", "frames": ["a.py:1"]}
    todo["diagnosis"] = ["Is it so?"]
    text = page.render(results | {"todos": [todo]})
    for line in (
        '<p class="verdict failed">✗ the title</p>',
        '<p class="cause">the cause</p>',
        '<p class="where">at a.py:1</p>',
        '<p class="hint"><span class="label">Hint: </span>think</p>',
        '<div class="question"><p class="label">Ask yourself</p><p>Is it so?</p></div>',
    ):
        assert line in text


@pytest.mark.parametrize("form", ["gradescope", "junit", "page"])
def test_no_secret_reaches_a_student(results, form):
    """Seed, printed output and the text of the grader's own errors stay with the staff."""
    changed = copy.deepcopy(results)
    for check in checks_of(changed):
        if check["status"] == "grader_error":
            check["message"] = "secret-of-the-grader"
    if form == "gradescope":
        text = json.dumps(gradescope.render(changed))
    else:
        text = junit.render(changed).decode() if form == "junit" else page.render(changed)
    for secret in ("1234567890123", "printed-by-student", "secret-of-the-grader"):
        assert secret not in text


def test_outputs_of_a_real_run(starter_graded):
    results, folder = starter_graded.results, starter_graded.folder
    assert json.loads((folder / "gradescope.json").read_text())["score"] == 0
    assert len(ElementTree.parse(folder / "junit.xml").getroot().findall(".//testcase")) == len(checks_of(results))
    assert f"0 of {results['max_score']:g}" in (folder / "page.html").read_text()
    assert str(results["staff_only"]["seed"]) not in (folder / "page.html").read_text()


def test_a_report_that_fails_costs_no_result(results, tmp_path, monkeypatch):
    def broken(_results):
        raise RecursionError

    monkeypatch.setattr(page, "render", broken)
    words = [tmp_path, "--out", tmp_path / "r.json", "--html", tmp_path / "p.html", "--junit", tmp_path / "j.xml"]
    failed = grade.write_outputs(results, grade.build_parser().parse_args([str(word) for word in words]))
    assert failed == ["p.html could not be written: RecursionError: "]
    assert json.loads((tmp_path / "r.json").read_text())["score"] == results["score"]
    assert (tmp_path / "j.xml").exists()
