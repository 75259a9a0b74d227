"""The course site before, during and after its assignments: what it tells, links, HTML, width, keyboard."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from tinyhtml5.parser import HTMLParser as StrictParser

from staff.grader import facts
from staff.quality import verdicts
from staff.release import site
from staff.release.make_starter import starter
from staff.release.starter import recipe as recipes
from staff.release.starter import release
from staff.tests.browsing import keys, show, width_of
from tests.sweeps.cluster.needs import need
from toolkit.errors import UserError

DAY = timedelta(days=1)
RELEASED, DUE = datetime(2027, 9, 13, 9), datetime(2027, 10, 8, 23, 59)
TIMES = ("before", "during", "after")


@pytest.fixture(scope="session")
def starters():
    """Every assignment that there is, all open at the same time, whatever the dates of the term are."""
    found = []
    for place, name in enumerate(recipes.assignments()):
        one = recipes.load(name)
        dates = {"due_timezone": "local time", **(one.dates or {}), "released": RELEASED, "due": DUE + place * DAY}
        one = dataclasses.replace(one, course={**one.course, name: dates})
        found.append((one, starter(one)))
    return found


@pytest.fixture(scope="session")
def sources(starters) -> dict[str, dict[str, bytes]]:
    """What Jekyll reads before the first release date, while each assignment is open, and after the last due date."""
    zone = facts.zone(starters[0][0].course["timezone"])
    released, due = ([facts.in_zone(one.term[key], zone) for one, _ in starters] for key in ("released", "due"))
    return dict(
        zip(TIMES, (site.sources(starters, t) for t in (min(released) - DAY, min(due), max(due) + DAY)), strict=True)
    )


@pytest.fixture(scope="session")
def sites(sources) -> dict[str, dict[str, bytes]]:
    need("jekyll", "jekyll")
    return {name: site.render(files) for name, files in sources.items()}


class Page(HTMLParser):
    """Tags of a page with their attributes, and its text."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content.decode())
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _tag, attributes in self.tags if attribute in attributes]


def pages(files: dict[str, bytes]) -> Iterator[tuple[str, Page]]:
    return ((name, Page(content)) for name, content in files.items() if name.endswith(".html"))


def test_before_its_release_date_a_page_says_only_that_it_is_coming(starters, sources, sites):
    assert not [name for name in sources["before"] if name.endswith(".zip")]
    for one, made in starters:
        text = Page(sites["before"][f"{one.name}.html"]).text
        assert f"Coming on {site.handout.long_date(one.term['released'])}." in text
        assert len(text) < 700
        heading = re.search(rb"^## .*", made.files[one.settings.get("page", "README.md")], re.MULTILINE)[0]
        assert heading not in sources["before"][f"{one.name}.md"]
        assert heading in sources["during"][f"{one.name}.md"]


def test_an_assignment_without_a_release_date_stays_closed(starters):
    one, _made = starters[0]
    term = {key: value for key, value in one.term.items() if key != "released"}
    without = dataclasses.replace(one, course={**one.course, one.name: term})
    later = facts.in_zone(one.term["due"], facts.zone(one.course["timezone"])) + 100 * DAY
    assert site.assignment_facts(without, later)["state"] == site.COMING
    assert site.assignment_facts(one, later)["state"] == site.CLOSED


def test_a_release_after_the_due_date_is_refused(starters):
    one, _made = starters[0]
    term = {**one.term, "released": one.term["due"] + DAY}
    with pytest.raises(UserError, match=f"^{one.name} is released on .*, after its due date, .*: correct the dates$"):
        site.assignment_facts(
            dataclasses.replace(one, course={**one.course, one.name: term}), datetime.now().astimezone()
        )


@pytest.mark.parametrize(("time", "banner"), [("during", "Due"), ("after", "Was due")])
def test_an_open_page_has_banner_text_and_the_starter_itself(starters, sites, time, banner):
    for one, made in starters:
        page = Page(sites[time][f"{one.name}.html"])
        assert f"{banner} {site.handout.long_date(one.term['due'])}" in page.text
        archive = sites[time][f"starters/{one.name}.zip"]
        assert archive == release.archive(made.files, one.name)
        assert hashlib.sha256(archive).hexdigest() in page.text
        assert "Hand in" in page.text or "What you hand in" in page.text
        assert f"Points{one.points['points'] + one.term.get('analysis_points', 0)}" in page.text.replace(" ", "")


def test_error_rates_are_those_that_were_measured(sites, monkeypatch, tmp_path):
    text = Page(sites["during"]["grading.html"]).text
    for row in site.measured():
        assert f"{row['set']} {row['public']} {row['grader']} {row['right']}" in text
    other = tmp_path / "measured.toml"
    other.write_text('[[measured]]\nset = "new"\nright = 4\nmistakes = 2\npublic = [3, 0]\ngrader = [2, 1]\n')
    monkeypatch.setattr(verdicts, "FIRST", other)
    new = {"set": "new", "public": "0 of 2", "grader": "1 of 2", "right": "2 of 4"}
    assert [{key: value.partition(" (")[0] for key, value in row.items()} for row in site.measured()] == [new]


@pytest.mark.parametrize("time", TIMES)
def test_pages_are_valid_and_no_link_is_broken(sites, time):
    found = dict(pages(sites[time]))
    assert {f"{name}.html" for name in (*site.PAGES, *recipes.assignments())} == set(found)
    for name, page in found.items():
        parser = StrictParser()
        parser.parse(sites[time][name].decode())
        assert parser.errors == []
        ids = page.all("id")
        assert len(ids) == len(set(ids))
        assert [tag for tag, _ in page.tags].count("h1") == 1
        assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
        assert not re.search(r"\{\{|\{%", page.text)
        tags = [tag for tag, _ in page.tags]
        assert tags.count("table") == tags.count("thead"), f"{name}: bars of a sentence became a table"
        for link in [*page.all("href"), *page.all("src")]:
            parts = urlsplit(link)
            if parts.scheme in ("https", "data"):
                continue
            assert link, f"{name} has an empty link"
            assert link == parts._replace(scheme="", netloc="").geturl(), f"{name} links to {link!r}"
            assert not parts.path or parts.path in sites[time], f"{name} links to {link!r}"
            if parts.fragment:
                assert parts.fragment in found[parts.path or name].all("id"), f"{name} links to {link!r}"


TAB = "\ue004"
FOCUS = """const one = document.activeElement;
return [one.getBoundingClientRect().left, getComputedStyle(one).outlineStyle];"""


def test_pages_fit_the_screen_and_need_no_mouse(sites, browser, tmp_path):
    folder = tmp_path / "site"
    release.write_release(folder, sites["during"])
    for screen in (390, 1280):
        show(browser, screen)
        for name, _page in pages(sites["during"]):
            browser.get(f"{folder.as_uri()}/{name}")
            assert width_of(browser) <= screen, name
    reached = []
    links = browser.execute_script("return document.links.length")
    while len(set(reached)) < links and len(reached) < 3 * links:
        keys(browser, TAB)
        reached.append(browser.execute_script("return [...document.links].indexOf(document.activeElement)"))
        where, outline = browser.execute_script(FOCUS)
        assert where >= 0
        assert outline == "solid"
    assert reached == list(range(links))  # all of them in their order; the first one skips to the text


def test_a_missing_jekyll_is_one_line_with_the_cure(sources, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"^the course site is built by Jekyll.*apt-get install jekyll[^\n]*$"):
        site.render(sources["before"])


@pytest.mark.parametrize("text", ["soon", "2027-13-01", ""])
def test_a_wrong_time_is_refused(text):
    with pytest.raises(UserError, match=r"--at is .*expected a date and a time such as"):
        site.read_time(text, None)
