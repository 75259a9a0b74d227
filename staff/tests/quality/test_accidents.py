"""The class of accidents: reading explains what it must; what is not explained is counted."""

from __future__ import annotations

import sys

import pytest

from staff.quality import accidents


@pytest.fixture
def quick(tmp_path, monkeypatch, capsys):
    """Run the command without grading; (exit code, lines)."""

    def run() -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["accidents", str(tmp_path / "class"), "--quick"])
        return accidents.main(), capsys.readouterr().out.splitlines()

    return run


def test_every_accident_has_a_row_that_explains_it(quick):
    code, lines = quick()
    assert code == 0, "\n".join(lines)
    assert len(lines) == len(accidents.CLASS) + 1
    assert not [line for line in lines if "(no row)" in line]
    assert {accident.assignment for accident in accidents.CLASS} == {"project2", "hw5"}


def test_a_row_that_does_not_explain_is_counted(quick, monkeypatch):
    wrong = accidents.Accident("project2", "x", accidents.only(notes__txt=b""), "some other reason")
    monkeypatch.setattr(accidents, "CLASS", [wrong])
    code, lines = quick()
    assert (code, lines[-1].partition(" (")[0]) == (1, "1 accidents, 1 without the explanation that they need")
