"""What leaves the gradebook: tables for spreadsheets, Canvas and Moodle, feedback files, and how long a class takes."""

from __future__ import annotations

import csv
import io
import re
import time
import zipfile

import pytest

from staff.gradebook import summing
from staff.gradebook.tables import WORKSHEET
from staff.tests.gradebook import terms
from staff.tests.gradebook.terms import FULL, MOST

MOST_S = 60.0  # for a class of 200; 2 on one idle core


def rows_of(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))


@pytest.fixture
def draft(tmp_path):
    """Ada all points, Émile excused, Marie 1 day late and free, the fourth, whose name is a formula, nothing."""
    term = terms.make(tmp_path / "term")
    everything = terms.results_of("project2")
    terms.graded(term, "project2", {"Ada Lovelace_12": everything, "s2": everything, "s3": everything}, {"s3": 0.5})
    terms.decide(term, 'kind = "excuse"; student = "s2"')
    terms.decide(term, 'kind = "comment"; student = "s1"; comment = "well done, <b>Ada</b>"')
    terms.decide(term, 'kind = "rubric"; team = "blue"; item = "report: figures"; points = 20')
    summing.sum_up(term)
    return term / "draft"


def test_gradebook_csv(draft):
    """A row for everybody; a mark by which Excel knows UTF-8; no cell that a spreadsheet would run."""
    content = (draft / "gradebook.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    head, *rows = rows_of(content)
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert list(table) == ["s1", "s2", "s3", "s4"]
    assert table["s4"]["name"] == "'=cmd|' /C calc'!A0"
    assert table["s1"]["project2 sum"] == f"{FULL + 20:.1f}"
    assert table["s2"]["project2 state"] == "excused"
    assert (table["s3"]["project2 days late"], table["s3"]["project2 free days"]) == ("1", "1")
    assert (table["s4"]["project2 sum"], table["s4"]["project2 state"]) == ("", "nothing handed in")
    for path in draft.glob("*.csv"):
        for cell in (cell for row in rows_of(path.read_bytes()) for cell in row):
            assert not re.match(r"\s*[=+@\t\r-]", cell) or re.fullmatch(r"-?[\d.]*", cell), f"{path.name}: {cell!r}"


def test_canvas_reads_it(draft):
    """As Canvas's importer decides: the first two heads, Section last of the student's, Points Possible, EX."""
    content = (draft / "canvas.csv").read_bytes()
    assert not content.startswith(b"\xef\xbb\xbf")
    head, possible, *rows = rows_of(content)
    assert "Student" in head[0]
    assert "ID" in head[1]
    assert re.match(r"SIS\s+User\s+ID", head[2])
    assert re.match(r"SIS\s+Login\s+ID", head[3])
    assert "Section" in head[4]
    assert "Points Possible" in possible[0]
    assert possible[5:] == [f"{MOST:.1f}"]
    assert [row[2] for row in rows] == ["s1", "s2", "s3", "s4"]
    assert [row[5] for row in rows] == [f"{FULL + 20:.1f}", "EX", f"{FULL:.1f}", ""]


def test_moodle_reads_it(draft):
    """Columns by which the importer finds a grade, and folders by which the other finds whose a file is."""
    head, *rows = rows_of((draft / "moodle-project2.csv").read_bytes())
    assert {"Identifier", "Grade", "Last modified (grade)"} <= set(head)
    assert tuple(head) == WORKSHEET
    assert [dict(zip(head, row, strict=True))["Grade"] for row in rows] == [f"{FULL + 20:g}"]  # whose number is known
    assert rows[0][0] == "Participant 12"
    with zipfile.ZipFile(draft / "moodle-feedback-project2.zip") as archive:
        names = archive.namelist()
        page = archive.read(names[0]).decode()
    assert names == ["Ada Lovelace_12_assignfeedback_file_/feedback-project2.html"]
    full, number, kind, plugin, _ = names[0].split("/")[0].split("_", 4)
    assert (full, int(number), kind, plugin) == ("Ada Lovelace", 12, "assignfeedback", "file")
    assert f"Sum: {FULL + 20:g} of {MOST:g}" in page
    assert "well done, &lt;b&gt;Ada&lt;/b&gt;" in page


def test_a_downloaded_worksheet_is_filled_in(draft):
    """By e-mail, and nothing else in it is touched; who has no grade keeps an empty cell."""
    term = draft.parent
    lines = [",".join(WORKSHEET), "Participant 5,x,marie@uni.example,Submitted,,75,Yes,today,yesterday,"]
    lines += ["Participant 6,x,mallory@uni.example,-,,75,Yes,-,-,keep"]
    (term / "project2-worksheet.csv").write_text("\n".join(lines), encoding="utf-8")
    text = summing.sum_up(term)
    head, *rows = rows_of((draft / "moodle-project2.csv").read_bytes())
    assert [row[head.index("Grade")] for row in rows] == [f"{FULL:g}", ""]
    assert [row[head.index("Last modified (grade)")] for row in rows] == ["yesterday", "-"]
    assert rows[1][-1] == "keep"
    assert f"Moodle skips grades over the maximum; set it to at least {FULL + 20:g}" in text


def test_a_class_of_200_is_quick(tmp_path):
    """Two assignments, 400 pages; a tenth of the class is late, a tenth has a decision."""
    term = terms.make(tmp_path / "term")
    people = [f"x{i},Student {i},x{i}@uni.example,t{i // 5},A,{i + 1000}" for i in range(200)]
    (term / "roster.csv").write_text(terms.ROSTER + "\n".join(people))
    for name in ("project2", "hw5"):
        results = {f"x{i}": terms.results_of(name, files=str(i)) for i in range(200)}
        terms.graded(term, name, results, {f"x{i}": 4.5 for i in range(0, 200, 10)})
    for i in range(0, 200, 10):
        terms.decide(term, f'kind = "override"; student = "x{i}"; todo = "1.4"; points = 1')
    started = time.monotonic()
    summing.publish(term)
    assert time.monotonic() - started < MOST_S
    assert len(list((term / "published/feedback").rglob("*.html"))) == 400
