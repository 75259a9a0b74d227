"""`staff.grade --debug`: a person's print() and breakpoint() in a submission, from inside the sandbox."""

from __future__ import annotations

import json
import subprocess
import sys

from staff.tests.grading_tools import ROOT

# "\x1b[2J" would clear the terminal.
STOPPED = """
    def forward(self, pred, target):
        print("\\x1b[2J", "seen", tuple(pred.shape))
        breakpoint()
        assert input("typed? ") == "an answer"
"""


def test_print_input_and_breakpoint_reach_the_terminal_and_nothing_else_does(tmp_path):
    text = (ROOT / "segmentation_models.py").read_text(encoding="utf-8")
    before, dice, after = text.partition("class DiceLoss")
    head, forward, body = after.partition(
        "\n    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:\n"
    )
    assert forward
    (tmp_path / "segmentation_models.py").write_text(before + dice + head + STOPPED + body, encoding="utf-8")
    out = tmp_path / "results.json"
    call = [sys.executable, "-m", "staff.grade", str(tmp_path), "--out", str(out), "--quiet", "--debug"]
    call += ["--check", "test_2_losses.py::test_dice_value"]
    typed = "p 6 * 7\nc\nan answer\n" * 20
    done = subprocess.run(call, cwd=ROOT, input=typed, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for said in ("seen (", "-> assert input(", "(Pdb) 42\n", "typed? "):
        assert said in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    results = json.loads(out.read_text())
    assert results["partial"].endswith("with --debug, which has no time limits")
    (dice_check,) = [
        c for t in results["todos"] for c in t["checks"] if c["test"] == "test_2_losses.py::test_dice_value"
    ]
    assert dice_check["status"] == "passed"


def test_breakpoint_in_a_graded_test_opens_pdb(tmp_path):
    (tmp_path / "test_a.py").write_text("def test_a():\n    value = 36\n    breakpoint()\n    assert value == 42\n")
    code = (
        "import sys, types; from pathlib import Path; from staff.grader import grade; "
        "grade.run_checks(types.SimpleNamespace(stopped_by=None), Path(sys.argv[1]), debug=True)"
    )
    call = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(
        call, cwd=ROOT, input="p value + 6\nc\n", capture_output=True, text=True, timeout=100, check=False
    )
    assert "(Pdb) 42\n" in done.stdout, done.stderr
