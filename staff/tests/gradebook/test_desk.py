"""What people decide in the reading pages: what it counts, who may save, and that nothing of it is lost."""

from __future__ import annotations

import functools
import re
import threading

import pytest

from staff.gradebook import decisions, rubric
from staff.gradebook.desk import ConflictError, Desk, points_of
from staff.gradebook.serve import make_app
from staff.grader import assignment as assignments
from staff.grader import facts
from staff.tests.gradebook import reading_term

PORT, TOKEN = 8765, "right-token"


@pytest.fixture
def desk(tmp_path) -> Desk:
    return Desk(reading_term.make(tmp_path / "term"), b"secret")


def item_of(desk: Desk, name: str, number: str):
    return next(item for item in desk.rubrics[name].items if number in item.id)


def test_the_report_is_worth_what_the_course_says_and_answers_what_the_grader_gave():
    report, answers = rubric.load("project2"), rubric.load("hw5")
    assert sum(item.most for item in report.items) == facts.term("project2")["analysis_points"]
    assert [level.key for level in report.items[0].levels] == list("012345")
    assert [level.key for level in answers.items[0].levels] == list("123")
    tests = [check.test for todo in assignments.load("hw5").todos for check in todo.checks if "answer" in check.test]
    assert [item.check for item in answers.items] == tests


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('[5, "and what', '[6, "and what', "but course.toml has analysis_points = "),
        ("report: limits", "report: figures", "names an item twice"),
        ('\nper = "team"', '\nper = "class"', "per is 'class'; allowed: student, team"),
        ('title = "Team report"', "", "title is missing"),
    ],
)
def test_a_rubric_that_contradicts_itself_says_what_is_wrong(tmp_path, old, new, message):
    text = (assignments.FOLDER / "project2/rubric.toml").read_text()
    assert text.count(old) == 1
    (tmp_path / "project2").mkdir()
    (tmp_path / "project2/rubric.toml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(message)):
        rubric.load("project2", tmp_path)


def test_an_answer_loses_a_share_of_what_the_grader_gave_for_it(desk):
    item = item_of(desk, "hw5", "2.3")
    cards, missing = desk.cards("hw5", item)
    worth = {card.whose["student"]: card.worth for card in cards}
    # TODO 2.3 has 5 points for a check of weight 2 and the answer, of weight 1; s002's code earned nothing.
    assert worth == pytest.approx({"s000": 5 / 3, "s002": 0.0, "s003": 5 / 3, "s004": 5 / 3})
    assert [points_of(item, level, 5 / 3) for level in item.levels] == [0.0, -0.83, -1.67]
    assert [points_of(item, level, 0.0) for level in item.levels] == [0.0, 0.0, 0.0]
    assert missing == ["Name1 Test: no answer 2.3", "Name5 Test: not graded"]


def test_decisions_are_kept_and_taken_back(desk):
    item = item_of(desk, "hw5", "2.3")
    card = desk.cards("hw5", item)[0][0]
    state = lambda: desk.states("hw5").get((card.key, item.id))  # noqa: E731

    desk.save("hw5", item, card, "Ada", "", level="2", comment="Which epoch?")
    assert (state().level, state().points, state().comment, state().who) == ("2", -0.83, "Which epoch?", "Ada")
    desk.save("hw5", item, card, "Ada", state().seen, level="3", comment=None)
    assert (state().level, state().points, state().comment) == ("3", -1.67, "Which epoch?")
    desk.save("hw5", item, card, "Ada", state().seen, level="", comment="")
    assert (state().level, state().points, state().comment) == ("", None, "")
    assert len(decisions.read(desk.term.decisions_path)) == 5
    assert decisions.in_force(decisions.read(desk.term.decisions_path), "hw5", "s000") == []


def test_a_report_counts_for_each_member(desk):
    cards, missing = desk.cards("project2", desk.rubrics["project2"].items[0])
    assert [card.name for card in cards] == ["team0", "team1"]
    assert missing == ["team2: no report in project2-reports", "notes.pdf: belongs to no team"]
    for item, level in zip(desk.rubrics["project2"].items, "54321", strict=True):
        desk.save("project2", item, cards[0], "Ada", "", level=level, comment=None)
    made = decisions.read(desk.term.decisions_path)
    for student, points in (("s000", 15), ("s001", 15), ("s002", 0)):
        team = desk.term.roster.by_id[student].team
        assert sum(one.points for one in decisions.in_force(made, "project2", student, team)) == points


def test_who_did_not_see_the_decision_of_another_is_told(desk):
    item = desk.rubrics["hw5"].items[0]
    card = desk.cards("hw5", item)[0][0]
    desk.save("hw5", item, card, "Ben", "", level="1", comment=None)
    with pytest.raises(ConflictError) as error:
        desk.save("hw5", item, card, "Ada", "", level="3", comment="no")
    assert (error.value.state.who, error.value.state.level) == ("Ben", "1")
    desk.save("hw5", item, card, "Ada", error.value.state.seen, level="3", comment=None)
    assert [one.who for one in decisions.read(desk.term.decisions_path)] == ["Ben", "Ada"]


def test_two_who_grade_at_the_same_time_lose_nothing(desk):
    """Each with a server of their own, all items of all cards."""
    desks = [desk, Desk(desk.term.path, b"another")]

    def grade(one: Desk, who: str) -> None:
        for item in one.rubrics["hw5"].items[:5]:
            for card in one.cards("hw5", item)[0]:
                seen = one.states("hw5").get((card.key, item.id))
                try:
                    one.save("hw5", item, card, who, seen.seen if seen else "", level="1", comment=f"{who} read it")
                except ConflictError:
                    one.save("hw5", item, card, who, one.states("hw5")[card.key, item.id].seen, level="1", comment=who)

    threads = [threading.Thread(target=grade, args=pair) for pair in zip(desks, ("Ada", "Ben"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = decisions.read(desk.term.decisions_path)
    given = {(one.who, one.student, one.item) for one in made if one.kind == "rubric"}
    assert len(given) == 2 * (5 * 5 - 1)  # five questions, five who handed in, one answer missing


@pytest.fixture
def client(desk):
    app = make_app(desk, TOKEN, PORT)
    client = app.test_client()
    client.open = functools.partial(client.open, base_url=f"http://127.0.0.1:{PORT}")
    return client


def enter(client) -> str:
    """Through the door; the secret of the forms."""
    assert client.get(f"/?token={TOKEN}").status_code == 302
    form = re.search(r'name="form" value="([^"]+)"', client.get("/").text)[1]
    assert client.post("/who", data={"form": form, "who": "Ada"}).status_code == 302
    return form


def test_only_who_has_the_token_and_our_address_gets_in(client):
    for path in ("/", "/?token=wrong", "/answers/hw5/0", "/file/project2/x"):
        assert client.get(path).status_code == 403
    assert client.post("/save/hw5/0").status_code == 403
    enter(client)
    assert client.get("/answers/hw5/0").status_code == 200
    for host in ("evil.example", f"evil.example:{PORT}", "127.0.0.1:1"):
        assert client.get("/answers/hw5/0", headers={"Host": host}).status_code == 400
    for path in ("/answers/hw5/99", "/answers/none/0", "/report/project2/x", "/file/project2/../../etc"):
        assert client.get(path).status_code == 404


def test_only_our_own_forms_save(client, desk):
    form = enter(client)
    item = desk.rubrics["hw5"].items[0]
    data = {"form": form, "card": desk.cards("hw5", item)[0][0].key, "seen": "", "level": "1"}
    for change, headers in (({"form": ""}, {}), ({"form": "x"}, {}), ({}, {"Origin": "http://evil.example"})):
        assert client.post("/save/hw5/0", data=data | change, headers=headers).status_code == 403
    assert client.post("/save/hw5/0", data=data | {"level": "9"}).status_code == 400
    assert client.post("/save/hw5/0", data=data | {"card": "x"}).status_code == 404
    assert client.post("/save/hw5/0", data=data | {"comment": "x" * 100_000}).status_code == 413
    assert not desk.term.decisions_path.exists()
    assert client.post("/save/hw5/0", data=data).status_code == 302
    assert len(decisions.read(desk.term.decisions_path)) == 1


def test_nothing_that_a_student_wrote_is_markup_or_may_run(client, desk):
    enter(client)
    page = client.get("/answers/hw5/0")
    assert "&lt;script&gt;document.title" in page.text
    assert "<b>bold" not in page.text
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "Name0" not in page.text  # hidden unless asked for
    card = desk.cards("project2", desk.rubrics["project2"].items[0])[0][0]
    file = client.get(f"/file/project2/{card.key}")
    assert file.data.decode() == reading_term.REPORT
    assert file.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert "<iframe sandbox src" in client.get(f"/report/project2/{card.key}").text


def test_a_report_that_is_a_link_to_another_file_is_not_shown(client, desk, tmp_path):
    enter(client)
    (tmp_path / "secret").write_text("secret")
    (desk.reports_folder("project2") / "team2.html").symlink_to(tmp_path / "secret")
    key = desk.cards("project2", desk.rubrics["project2"].items[0])[0][-1].key
    answer = client.get(f"/file/project2/{key}")
    assert answer.status_code == 500
    assert "team2.html" in answer.text
    assert "secret" not in answer.text
