"""What may stand in course.toml: a mistake is named, and so is what no tool reads."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from staff.gradebook.term import Policy
from staff.release.starter import course, recipe
from staff.release.starter.recipe import FOLDER, read_course
from toolkit.errors import UserError

TEXT = (FOLDER / "course.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "instead", "says"),
    [
        (r"^term = .*", "", "term of course.toml is missing; write text in quotes"),
        (r"^term = .*", "term = 2028", "term of course.toml is 2028; write text in quotes"),
        (r"^team_size = .*", 'team_size = "five"', "team_size of course.toml is 'five'; write a number from 0"),
        (
            r"^timezone = ",
            "time_zone = ",
            "no tool reads time_zone of course.toml; .*timezone",
        ),
        (r"^timezone = .*", 'timezone = "Swiss"', "timezone is 'Swiss'; allowed: a name as Europe/Zurich"),
        (r"^percent_per_day", "percents_per_day", r"no tool reads percents_per_day of \[late\] in course.toml"),
        (r"^free_days = \d+", "free_days = -1", r"free_days of \[late\] in course.toml is -1; write a number from 0"),
        (r"^due = .*", "due = 'soon'", "due of project2 is 'soon'; write a date with its time"),
        (r"^due = .*", "due = 2028-09-08", r"due of project2 is datetime.date\(.*\); write a date with its time"),
        (r"^due = .*", "", "due of project2 is missing; write a date with its time"),
        (r"^due_timezone = .*", "", "due_timezone of project2 is missing; write text in quotes"),
        (r"^released = .*", "released = 1", "released of project2 is 1; write a date with its time"),
    ],
)
def test_a_mistake_in_the_settings_of_the_term_is_named(tmp_path, line, instead, says):
    path = tmp_path / "course.toml"
    path.write_text(re.sub(line, instead, TEXT, count=1, flags=re.MULTILINE), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != TEXT
    with pytest.raises(UserError, match=says):
        read_course(path)


def test_an_assignment_without_dates_is_not_part_of_the_term(monkeypatch, capsys):
    term = read_course(FOLDER / "course.toml")
    monkeypatch.setattr(recipe, "read_course", lambda path: {name: term[name] for name in term if name != "hw5"})
    chosen = [one.name for one in recipe.of_this_term()]
    assert "project2" in chosen
    assert "hw5" not in chosen
    assert "note: hw5 is not part of this term, because course.toml has no [hw5]" in capsys.readouterr().out


def test_the_gradebook_reads_each_cost_of_late_work_that_may_be_set():
    assert [field.name for field in fields(Policy)] == list(course.LATE_MAY)
