"""The law of the attack corpus, in every sandbox layer that this machine has; and that the law can be broken."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys

import pytest

from staff.quality.attacks.corpus import Attack, read_corpus, together
from staff.quality.attacks.run import plan_of
from staff.tests.grading_tools import LEGACY, ROOT

pytestmark = pytest.mark.timeout(1800)
LAYERS = ("bwrap", "user", "limits")


def attacks(*arguments: object, cwd=ROOT) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "staff.attacks", *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)


def test_no_attack_gains_anything(starter_folder):
    """Every attack; those on the machine in every layer. Points, time, processes, files, modes, network."""
    run = attacks("--quick", "--jobs", 3, "--starter", starter_folder)
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == f"{len(read_corpus())} attacks, 0 gained"
    if os.environ.get("COURSE_CI") == "1":
        missing = [layer for layer in LAYERS if f"layer {layer} available" not in run.stdout]
        assert missing == ["user"] * (os.geteuid() != 0)


def test_quick_plan_leaves_nothing_out():
    """Every attack in the strongest layer; those on the machine in the others too, the quiet ones in one submission."""
    corpus = read_corpus()
    plan = plan_of(corpus, list(LAYERS), quick=True)
    assert {attack.name for attack, layer in plan if layer == "bwrap"} == {attack.name for attack in corpus}
    for other in ("user", "limits"):
        said = " ".join(f"{attack.name} {attack.tries}" for attack, layer in plan if layer == other)
        missing = {a.name for a in corpus if "system" in a.tags and not re.search(rf"\b{a.name}\b", said)}
        assert missing == set()
    assert len(plan_of(corpus, list(LAYERS), quick=False)) == 3 * len(corpus)


def test_attacks_in_one_submission_are_all_made(tmp_path, starter_folder):
    """Also those after one that raises, ends the interpreter's loop or replaces names."""
    texts = ["raise SystemExit", "DONE = [1]", "import none_of_this_name", "DONE.append(2)"]
    made = together([Attack(f"a{i}", "", ["quiet"], [("all", "+", text)]) for i, text in enumerate(texts)])
    made.write(tmp_path / "submission", starter_folder, {})
    found = runpy.run_path(str(tmp_path / "submission/classification_train.py"))
    assert found["DONE"] == [1, 2]


def weakened(folder, *changes: tuple[str, str, str]):
    """A copy of the staff repository with text replaced: (file, old, new)."""
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "runs", "labs", "bench", "__pycache__")
    copy = shutil.copytree(ROOT, folder / "copy", ignore=ignored)
    for name, old, new in changes:
        text = (copy / name).read_text()
        assert old in text
        (copy / name).write_text(text.replace(old, new))
    return copy


LITTER = """Leaves a file in the folder of the results.
--- classification_models.py +
open('{OUT}/LEFT-{MARK}', 'w')
"""
STEAL_LOSSES = """Takes the losses out of the solution.
--- segmentation_models.py +
exec(open('{ROOT}/solution/segmentation_models.py').read())
for name in ('LinearSegmentation', 'MLPSegmentation', 'SimpleCNN', 'TinyUNet'): globals()[name] = None
"""


def test_the_law_can_fail(tmp_path, starter_folder):
    """Without Landlock and the proof that the grader's files are hidden, theft and litter happen and are reported."""
    copy = weakened(
        tmp_path,
        ("staff/grader/sandbox.py", "without: tuple[str, ...] = ()", 'without: tuple[str, ...] = ("landlock",)'),
        ("staff/grader/sandbox.py", 'if hello["visible"]:', "if False:"),
    )
    (copy / "solution").mkdir()
    shutil.copy(LEGACY / "segmentation_models.py", copy / "solution")
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    (copy / "staff/quality/attacks/corpus/steal_losses.attack").write_text(STEAL_LOSSES)
    (copy / "staff/quality/attacks/corpus/litter.attack").write_text(LITTER)
    run = attacks("steal_losses", "litter", "--layers", "limits", "--starter", starter_folder, cwd=copy)
    assert run.returncode == 1, run.stdout + run.stderr
    assert re.search(r"^steal_losses +limits +4\.00 .*BROKEN +GAINED 4 points", run.stdout, re.MULTILINE), run.stdout
    assert re.search(r"^litter .*BROKEN +left .*/LEFT-", run.stdout, re.MULTILINE), run.stdout
    assert run.stdout.splitlines()[-1] == "2 attacks, 1 gained"


def test_an_unknown_attack_is_a_mistake():
    run = attacks("no_such_attack")
    assert run.returncode == 2
    assert "no such attack: no_such_attack" in run.stderr
