"""The reading pages in a real browser: grading by keys, comments, two people at once, reports in a frame."""

from __future__ import annotations

import os
import threading

import pytest
from werkzeug.serving import make_server

from staff.gradebook import decisions, pages
from staff.gradebook.desk import Desk
from staff.gradebook.roster import Student
from staff.gradebook.serve import HOST, make_app
from staff.gradebook.sums import NOT_GRADED, Grade
from staff.grader import assignment as assignments
from staff.tests.browsing import keys, show, width_of
from staff.tests.gradebook import reading_term
from tests.sweeps import tools

TOKEN, STUDENTS = "token", 121
PATIENCE_S = 60  # only keeps a broken test from hanging: on a calm machine everything is there within a second


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Desk:
    return Desk(reading_term.make(tmp_path_factory.mktemp("reading") / "term", STUDENTS), b"secret")


@pytest.fixture(scope="module")
def address(desk):
    server = make_server(HOST, 0, lambda environ, start: None, threaded=True)
    server.app = make_app(desk, TOKEN, server.port)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{HOST}:{server.port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def first_page(browser, address, desk):
    """Ada has come in; nothing is decided yet."""
    desk.term.decisions_path.unlink(missing_ok=True)
    show(browser, 1280)
    browser.get(f"{address}/?token={TOKEN}")
    field = browser.find_element("name", "who")
    field.clear()
    field.send_keys("Ada\n")
    tools.wait_until(lambda: browser.find_elements("partial link text", "2.3"), "the links are there", PATIENCE_S)
    browser.get_log("browser")
    return browser


def open_page(browser, link: str) -> None:
    browser.find_element("partial link text", link).click()
    tools.wait_until(
        lambda: browser.find_elements("css selector", "form.current"), f"the page of {link} is there", PATIENCE_S
    )


def progress(browser) -> str:
    return browser.find_element("id", "progress").text


def made(desk: Desk, kind: str) -> list[decisions.Decision]:
    return [one for one in decisions.read(desk.term.decisions_path) if one.kind == kind]


def wait_for(desk: Desk, kind: str, count: int, seconds: float = PATIENCE_S) -> None:
    tools.wait_until(lambda: len(made(desk, kind)) >= count, f"{count} decisions ({kind}) are saved", seconds)


def shown_levels(browser) -> list[str]:
    script = "return [...document.querySelectorAll('form.item')].map(item => item.dataset.level)"
    return browser.execute_script(script)


def test_120_answers_are_graded_by_keys_alone(first_page, desk):
    open_page(first_page, "1.3")
    count = STUDENTS - 1
    assert len(first_page.find_elements("css selector", "form.item")) == count
    pressed = [str(1 + i * i % 3) for i in range(count)]
    keys(first_page, "".join(pressed))
    wait_for(desk, "rubric", count, 200)
    tools.wait_until(lambda: progress(first_page) == f"{count} of {count} read", "the page says so", PATIENCE_S)
    assert shown_levels(first_page) == pressed
    assert len({one.student for one in made(desk, "rubric")}) == count
    first_page.refresh()
    assert shown_levels(first_page) == pressed  # no one got the level of a neighbour
    assert first_page.get_log("browser") == []


def test_comments_are_written_once_and_taken_from_the_list(first_page, desk):
    from selenium.webdriver import Keys

    open_page(first_page, "2.3")
    keys(first_page, "cNames no epoch, and 1 reason" + Keys.ENTER)
    wait_for(desk, "comment", 1)
    tools.wait_until(
        lambda: first_page.find_elements("css selector", "#comments button"), "it is in the list", PATIENCE_S
    )
    keys(first_page, "jcShow the curve" + Keys.ENTER)
    wait_for(desk, "comment", 2)
    tools.wait_until(
        lambda: len(first_page.find_elements("css selector", "#comments li")) == 2, "so is this", PATIENCE_S
    )
    texts = [button.text for button in first_page.find_elements("css selector", "#comments button")]
    assert sorted(text[2:] for text in texts) == ["Names no epoch, and 1 reason", "Show the curve"]
    keys(first_page, "jab2")
    wait_for(desk, "rubric", 1)
    one = made(desk, "rubric")[0]
    kept = [comment.comment for comment in made(desk, "comment") if comment.student == one.student]
    assert sorted(kept[-1].splitlines()) == ["Names no epoch, and 1 reason", "Show the curve"]
    keys(first_page, "ku")  # the next unread one was shown; back, and take the level back
    wait_for(desk, "rubric", 2)
    assert made(desk, "rubric")[-1].withdrawn
    keys(first_page, "cnot kept" + Keys.ESCAPE + "j")
    assert len(made(desk, "comment")) == 4


def test_a_click_on_a_level_counts_too_and_markup_stays_text(first_page, desk):
    open_page(first_page, "1.2")
    assert first_page.title.startswith("1.2")
    card = next(one for one in first_page.find_elements("css selector", "form.item") if "<b>bold</b>" in one.text)
    card.find_elements("css selector", ".levels button")[2].click()
    wait_for(desk, "rubric", 1)
    assert (made(desk, "rubric")[0].student, made(desk, "rubric")[0].reason) == ("s000", "wrong, or says nothing")


def test_who_comes_second_sees_the_first_and_may_replace(first_page, desk):
    open_page(first_page, "3.1")
    item = next(one for one in desk.rubrics["hw5"].items if one.question == "3.1")
    card = desk.mixed(desk.cards("hw5", item)[0])[0]
    desk.save("hw5", item, card, "Ben", "", level="1", comment="Fine")
    keys(first_page, "3")
    tools.wait_until(lambda: "Ben decided" in first_page.find_element("id", "message").text, "it says so", PATIENCE_S)
    assert shown_levels(first_page)[0] == "1"
    assert [one.who for one in made(desk, "rubric")] == ["Ben"]
    keys(first_page, "3")
    wait_for(desk, "rubric", 2)
    assert [(one.who, one.points) for one in made(desk, "rubric")] == [("Ben", 0.0), ("Ada", -2.0)]


def test_what_is_not_saved_is_said_and_stays_on_the_page(first_page, desk):
    open_page(first_page, "3.2")
    desk.term.decisions_path.write_text("broken")
    keys(first_page, "2")
    tools.wait_until(lambda: "Not saved" in first_page.find_element("id", "message").text, "it says so", PATIENCE_S)
    assert "is not valid TOML" in first_page.find_element("id", "message").text
    assert "NOT SAVED" in first_page.find_element("css selector", "form.unsaved").text
    assert desk.term.decisions_path.read_text() == "broken"


def test_a_report_is_judged_next_to_it_and_nothing_of_it_runs(first_page, desk):
    open_page(first_page, "team0")
    frame = first_page.find_element("tag name", "iframe")
    first_page.switch_to.frame(frame)
    assert first_page.find_element("tag name", "h1").text == "We compared"
    assert first_page.execute_script("return document.title") == ""  # its script would have set it to "run"
    first_page.switch_to.default_content()
    assert frame.get_attribute("sandbox") == ""
    keys(first_page, "54")
    frame.click()  # the keys still belong to the page
    tools.wait_until(lambda: first_page.switch_to.active_element.tag_name == "form", "the focus is back", PATIENCE_S)
    keys(first_page, "321")
    wait_for(desk, "rubric", 5)
    tools.wait_until(lambda: progress(first_page) == "5 of 5 read", "the page says so", PATIENCE_S)
    for student in ("s000", "s001"):
        ours = decisions.in_force(made(desk, "rubric"), "project2", student, "team0")
        assert sum(one.points for one in ours) == 15


@pytest.mark.parametrize("width", [1280, 390])
def test_the_pages_fit_the_width(first_page, address, width, tmp_path):
    show(first_page, width)
    for name, link in (("grading", ""), ("answers", "1.3"), ("report", "team0"), ("report-pdf", "team1")):
        first_page.get(address)
        if link:
            open_page(first_page, link)
            current = first_page.find_element("css selector", "form.current").rect
            assert 0 <= current["x"] <= current["x"] + current["width"] <= width
        assert width_of(first_page) <= width
        shots = os.environ.get("SCREENSHOTS", str(tmp_path))
        assert first_page.save_screenshot(os.path.join(shots, f"{name}-{width}.png"))


def test_a_page_that_says_why_there_is_no_grade_fits_a_telephone(browser, tmp_path):
    """Names of files hold no place to break a line."""
    why = f"the folder holds none of the files ({', '.join(assignments.load('project2').files)})"
    grade = Grade(Student("s1", "Ada"), "project2", "Project 2", NOT_GRADED, 50, 25, row={"problem": why}, open=[why])
    (tmp_path / "page.html").write_text(pages.feedback(grade), encoding="utf-8")
    show(browser, 390)
    browser.get(f"file://{tmp_path}/page.html")
    assert "segmentation_models.py" in browser.page_source
    assert width_of(browser) <= 390
