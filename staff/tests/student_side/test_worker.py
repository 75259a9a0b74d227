"""The student's process: what of ours a submission finds in it."""

from __future__ import annotations

import json
import subprocess
import sys

from staff.tests.grading_tools import ROOT

PROGRAM = """
import importlib, json, sys
sys.path.append(sys.argv[1])
from staff.student_side.protocol import Frame
from staff.student_side.worker import Worker
worker = Worker(None, "/nowhere", alone=True)
args = {"layers": [["relu"]]}
answers = [worker.answer(Frame({"id": 1, "op": op, "args": args})) for op in ("forget", "plain_model")]
found = [name for name in sys.modules if name.split(".")[0] == "staff"]
for name in ("staff", *(f"staff.{part}" for part in ("student_side.plain_models", "assignments.hw5.operations"))):
    try:
        importlib.import_module(name)
        found.append(name)
    except ImportError:
        pass
print(json.dumps({"found": found, "ok": [a.header["ok"] for a in answers], "rooms": sorted(worker.operations)}))
"""


def test_a_submission_can_import_nothing_of_ours():
    """And the worker still answers, with the operations of every assignment."""
    words = [sys.executable, "-c", PROGRAM, str(ROOT)]
    run = subprocess.run(words, cwd="/", capture_output=True, text=True, check=False, timeout=200)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"found": [], "ok": [True, True], "rooms": ["", "hw5"]}
