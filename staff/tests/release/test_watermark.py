"""Watermarked copies differ only where nothing changes, and a file that was handed on leads back to its copy."""

from __future__ import annotations

import ast
import re

import pytest

from staff.release.starter import contents, recipe, watermark
from staff.release.starter.build import build, read_graded
from staff.tests.release.tools import built, command
from toolkit.errors import UserError

SECRET = b"0123456789abcdef0123456789abcdef"
ROSTER = [f"student{number:03}" for number in range(200)]


@pytest.fixture(scope="module")
def graded(sources):
    """The unmarked graded files {name: text}."""
    return {name: built(sources).files[name].decode() for name in recipe.load("project2", sources).graded}


def copy_of(graded, student):
    return {name: watermark.Mark(SECRET, student).apply(name, text) for name, text in graded.items()}


def without_docstrings(text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.dump(tree)


def test_copies_differ_and_mean_the_same(graded):
    first, second = copy_of(graded, ROSTER[0]), copy_of(graded, ROSTER[1])
    assert first != second
    assert first == copy_of(graded, ROSTER[0]), "reproducible"
    for name, text in graded.items():
        assert without_docstrings(first[name]) == without_docstrings(text)
        assert watermark.canonical(first[name]) == text
    assert len({tuple(copy_of(graded, student).values()) for student in ROSTER}) == len(ROSTER)


@pytest.mark.parametrize("student", [ROSTER[0], ROSTER[77], ROSTER[199]])
def test_each_copy_leads_back_to_its_student(graded, student):
    guesses = watermark.identify(copy_of(graded, student), SECRET, ROSTER)
    assert guesses[0].student == student
    assert guesses[0].probability > 0.99
    assert guesses[0].agreeing == guesses[0].sites


def test_a_file_that_was_worked_on_still_leads_back(graded):
    """Stubs filled in, a fifth of the sites rewritten, all comments of one function gone."""
    copies = copy_of(graded, ROSTER[5])
    for name, text in copies.items():
        text = re.sub(r"raise NotImplementedError\(.*\)", "x = 1\n        return x", text)
        text = text.replace("Hint: ", "", 3)
        copies[name] = text
    assert watermark.identify(copies, SECRET, ROSTER)[0].student == ROSTER[5]


def test_nobody_is_accused_without_a_mark(graded):
    assert watermark.identify(graded, SECRET, ROSTER)[0].student == watermark.UNMARKED
    stranger = copy_of(graded, "somebody else")
    assert watermark.identify(stranger, SECRET, ROSTER)[0].student not in ROSTER
    other_secret = {
        name: watermark.Mark(b"another secret of 16", "student005").apply(name, graded[name]) for name in graded
    }
    assert watermark.identify(other_secret, SECRET, ROSTER)[0].student not in ROSTER
    with pytest.raises(UserError, match="no site"):
        watermark.identify({"classification_train.py": "x = 1\n"}, SECRET, ROSTER)


def test_a_watermarked_release_keeps_its_proofs(sources):
    loaded = recipe.load("project2", sources)
    made = build(loaded, mark=watermark.Mark(SECRET, ROSTER[3]))
    changed = {name for name, data in made.files.items() if data != built(sources).files[name]}
    assert changed <= set(loaded.graded)
    assert contents.proves_round_trip(made.files, read_graded(loaded), watermarked=True).problems == []
    planted = made.files | {loaded.graded[0]: made.files[loaded.graded[0]] + b"x = 1\n"}
    assert contents.proves_round_trip(planted, read_graded(loaded), watermarked=True).problems


def test_the_commands(sources, tmp_path):
    secret, roster = tmp_path / "course.key", tmp_path / "roster.txt"
    secret.write_bytes(SECRET)
    roster.write_text("\n".join(ROSTER), encoding="utf-8")
    folder = tmp_path / "copy"
    options = ("--source", sources, "--student", ROSTER[9], "--secret", secret)
    made = command("staff.make_starter", "--out", folder, *options)
    assert made.returncode == 0, made.stderr
    assert ROSTER[9] not in "".join(
        path.read_text("utf-8", "replace") for path in folder.rglob("*.*") if path.is_file()
    )
    found = command("staff.identify", folder, "--secret", secret, "--roster", roster)
    assert found.returncode == 0, found.stderr
    assert f"\n{ROSTER[9]}: 100.00%" in found.stdout
    for arguments, message in (
        ((folder / "README.md", "--secret", secret, "--roster", roster), "only graded files carry marks"),
        ((folder, "--secret", tmp_path / "none.key", "--roster", roster), "No such file"),
        ((folder, "--secret", secret, "--roster", tmp_path / "none.txt"), "none.txt"),
    ):
        wrong = command("staff.identify", *arguments)
        assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1), wrong.stderr
        assert message in wrong.stderr
