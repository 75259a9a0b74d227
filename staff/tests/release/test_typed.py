"""No text that ships repeats by hand what the settings say, and none names a file that is not there."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from staff.release.starter import recipe, typed
from staff.release.starter.build import Build, build
from staff.tests.release.tools import built

DUE = recipe.load("project2").term["due"]
DAY = f"{DUE.day} {DUE:%B}"


@functools.cache
def built_otherwise(root: Path) -> Build:
    return build(typed.altered(recipe.load("project2", root)))


@pytest.mark.parametrize("assignment", recipe.assignments())
def test_texts_follow_the_settings_and_name_files_that_exist(assignment):
    loaded = recipe.load(assignment)
    files = build(loaded, classroom=True).files
    proof = typed.proves_typed(loaded, files, classroom=True)
    assert proof.problems == []
    assert int(proof.what.split()[0]) >= 4  # course, term, date and points were seen
    assert typed.proves_paths(loaded, files).problems == []


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        ("README.md", f"Hand it in before {DAY} {DUE.year}.", f"'{DAY}' is typed by hand"),
        ("toolkit/cli.py", '"""From 2027-03-01 on."""', "'2027-03-01' is typed by hand"),
        ("tests/hints.json", "Part 1 has 25 points", "'25 points' is typed by hand"),
        ("AGENTS.md", "**1.2 CNN (5).**", "'**1.2 CNN (5)' is typed by hand"),
        ("Makefile", f"# {recipe.load('project2').course['course']}", "' is typed by hand"),
        ("README.md", "see `toolkit/nothing.py`", "names toolkit/nothing.py, which is not there"),
        ("configs/README.md", "python -m toolkit.nothing", "names toolkit/nothing.py, which is not there"),
    ],
)
def test_what_is_typed_by_hand_is_found(sources, monkeypatch, name, line, fault):
    """The line stands in the starter whatever the settings are."""
    loaded, files = recipe.load("project2", sources), dict(built(sources).files)
    other = dict(built_otherwise(sources).files)
    for made in (files, other):
        made[name] += f"{line}\n".encode()
    monkeypatch.setattr(typed, "build", lambda recipe, classroom: type("Made", (), {"files": other}))
    problems = typed.proves_typed(loaded, files).problems + typed.proves_paths(loaded, files).problems
    [problem] = problems
    assert re.match(rf"{re.escape(name)}:\d+: .*{re.escape(fault)}", problem)
