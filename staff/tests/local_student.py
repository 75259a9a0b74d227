"""A submission that answers in the test's own process: the worker's operations without sandbox and pipe.

For code that the tests write themselves, never for anybody else's.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from staff.grader.client import StudentProcess, checked
from staff.student_side.protocol import Frame
from staff.student_side.worker import Worker
from staff.tests.grading_tools import MODULES, ROOT


class LocalStudent:
    """Answers like staff.grader.client.StudentProcess. files: name -> text of the modules handed in."""

    channels, num_classes = StudentProcess.channels, StudentProcess.num_classes

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        names = [name.removesuffix(".py") for name in files]
        shadowed = {name: sys.modules.pop(name, None) for name in names}
        sys.path.insert(0, str(folder))
        try:
            importlib.invalidate_caches()
            modules = {name: importlib.import_module(name) for name in names}
        finally:
            sys.path.remove(str(folder))
            for name, module in shadowed.items():
                sys.modules.pop(name, None)
                if module is not None:
                    sys.modules[name] = module
        self.worker = Worker(None, str(folder))
        self.worker.module = modules.__getitem__

    def ask(self, op, spec, arrays=None, expect=None, timeout_s=None):
        """One question; CheckFailed as from the real one."""
        request = Frame({"id": 1, "op": op, "args": spec}, dict(arrays or {}))
        return checked(self.worker.answer(request), expect)


def reference_with(*edits: tuple[str, str, str]) -> dict[str, str]:
    """The reference's graded modules after edits (file, old, new), each in the one place where `old` stands."""
    files = {name: (ROOT / name).read_text(encoding="utf-8") for name in MODULES}
    for name, old, new in edits:
        assert files[name].count(old) == 1, f"{old!r} stands {files[name].count(old)} times in {name}, expected once"
        files[name] = files[name].replace(old, new)
    return files
