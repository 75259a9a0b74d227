"""`python -m staff.release`: a second run changes nothing, a failed proof releases nothing."""

from __future__ import annotations

import collections
import functools
import json
import sys

import pytest

from staff.grader.toml_file import read_toml
from staff.release import cycle, site
from staff.release.make_starter import starter
from staff.release.starter import recipe as recipes
from staff.release.starter import release
from staff.release.starter.build import Build
from staff.release.starter.proof import Proof
from toolkit.errors import UserError

TERM = read_toml(cycle.COURSE)["term"]


@functools.cache
def hw5(classroom: bool):
    return starter(recipes.load("hw5"), classroom=classroom)


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Release one assignment; the proofs, which take minutes, and Jekyll are stood in for and counted."""
    calls = {"proofs": 0, "sites": 0, "proof": Proof("leaks", "3 files"), "fingerprint": "a"}

    def proofs(*_args, **_options):
        calls["proofs"] += 1
        yield calls["proof"]

    def render(files):
        calls["sites"] += 1
        return {"course.json": files["_data/course.json"]}

    monkeypatch.setattr(recipes, "of_this_term", lambda: [recipes.load("hw5")])
    monkeypatch.setattr(cycle, "starter", lambda recipe, classroom=False: hw5(classroom))
    monkeypatch.setattr(cycle, "all_proofs", proofs)
    monkeypatch.setattr(site, "render", render)
    monkeypatch.setattr(cycle, "fingerprint", lambda root: calls["fingerprint"])

    def call(*flags: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["release", "--term", TERM, "--out", str(tmp_path / "out"), *flags])
        code = cycle.main()
        return code, capsys.readouterr().out

    call.folder, call.calls = tmp_path / "out", calls
    return call


def state(folder) -> dict:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_a_second_run_changes_nothing_and_what_was_lost_is_made_again(run):
    assert run()[0] == 0
    whole = {name: release.sha256(content) for name, content in release.read_folder(run.folder).items()}
    page = (run.folder / cycle.PAGE).read_text()
    for path in ("starters/hw5.zip", "staff_only/hw5-gradescope.zip"):
        assert f"| `{path}` |" in page
        assert f"`{whole[path]}`" in page
    assert {"starters/hw5/README.md", "classroom/hw5/.github/workflows/classroom.yml", "site/course.json"} <= set(whole)
    assert "ok    leaks: 3 files" in page
    before, made = state(run.folder), dict(run.calls)
    code, said = run()
    assert (code, "nothing was written" in said) == (0, True)
    assert (state(run.folder), run.calls) == (before, made)

    (run.folder / "starters/hw5.zip").unlink()
    assert run()[0] == 0
    assert {name: release.sha256(content) for name, content in release.read_folder(run.folder).items()} == whole


def test_a_date_that_passes_changes_the_site_and_proves_nothing_again(run, monkeypatch):
    run()
    proofs = run.calls["proofs"]
    facts_of = site.assignment_facts
    monkeypatch.setattr(site, "assignment_facts", lambda *one: {**facts_of(*one), "state": site.CLOSED})
    run()
    assert (run.calls["proofs"], run.calls["sites"]) == (proofs, 2)
    published = json.loads((run.folder / "site/course.json").read_text())
    assert published["assignments"]["hw5"]["state"] == site.CLOSED


@pytest.mark.parametrize("first", [True, False], ids=["nothing before", "an older release"])
def test_a_failed_proof_releases_nothing(run, first):
    if not first:
        run()
    before = state(run.folder)
    run.calls |= {"proof": Proof("leaks", "", ["the solution of TODO 1.1 is in README.md"]), "fingerprint": "b"}
    code, said = run()
    assert code == 1
    assert "the solution of TODO 1.1" in said
    assert "nothing was released" in said
    assert state(run.folder) == before


def test_the_page_names_every_assignment_that_there_is():
    starters = [(one, Build({}, "c0ffee", ["one file was left out"])) for one in recipes.of_this_term()]
    files = collections.defaultdict(bytes)
    files |= {cycle.proofs_of(one.name): f"{one.name}: all proofs hold".encode() for one, _made in starters}
    page = cycle.page(starters[0][0].course, starters, files)
    for one, _made in starters:
        assert f"\n## {one.title}\n\n- note: one file was left out\n- {one.name}: all proofs hold" in page


def test_wrong_input_is_one_line(run):
    with pytest.raises(UserError, match=r"^--term is 'Fall 1999', but .*course\.toml is for '[^\n]*$"):
        run("--term", "Fall 1999")
    run.folder.mkdir()
    (run.folder / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and no older release"):
        run()
    assert [path.name for path in run.folder.iterdir()] == ["thesis.txt"]


def test_the_fingerprint_sees_every_change_of_the_sources(tmp_path):
    assert cycle.fingerprint(tmp_path) == ""  # no git: nothing is known to be the same
    git = lambda *words: recipes.git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words)  # noqa: E731
    (tmp_path / ".git").mkdir()
    git("init", "-q")
    (tmp_path / "a.py").write_text("1")
    git("add", "a.py")
    git("commit", "-q", "-m", "one")
    seen = [cycle.fingerprint(tmp_path)]
    (tmp_path / "a.py").write_text("2")
    seen.append(cycle.fingerprint(tmp_path))
    (tmp_path / "b.py").write_text("new")
    seen.append(cycle.fingerprint(tmp_path))
    git("add", "-A")
    git("commit", "-q", "-m", "two")
    seen.append(cycle.fingerprint(tmp_path))
    assert len(set(seen)) == 4
    assert "" not in seen
    assert cycle.fingerprint(tmp_path) == seen[-1]
