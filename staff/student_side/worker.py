"""The only process that ever runs student code: reads requests from one pipe, answers on another.

It starts with empty hands: no labels but those of training data it is told to train on, no thresholds, no seeds, no
points. Nothing it answers is believed; the grader compares every array with what it computed by itself. So it gains
nothing by patching this file in memory. Started as `python -I -c START READ_FD WRITE_FD FOLDER`, see `sandbox.py`.
"""

from __future__ import annotations

import faulthandler
import importlib
import linecache
import os
import sys
import traceback
import types
from pathlib import Path

from staff.student_side import lockdown, state
from staff.student_side.protocol import Channel, Frame, PeerClosed

MAX_MESSAGE, MAX_FRAMES = 1500, 8
LATE = 0.9  # of a request's seconds: then the line that runs is printed, and the grader finds it there
STDOUT = 1


class Worker:
    """Answers one request at a time; `objects` holds the models that requests refer to by number.

    alone: whether the process has nothing else to do, so that our own modules can be taken out of its sight.
    """

    def __init__(self, channel: Channel, folder: str, alone: bool = False) -> None:
        self.channel, self.folder, self.alone = channel, folder, alone
        self.objects: dict[int, object] = {}
        self.next_number = 1
        self.operations: dict[str, types.ModuleType] = {}

    def keep(self, thing: object) -> int:
        """Remember an object; the number refers to it in later requests."""
        self.objects[self.next_number] = thing
        self.next_number += 1
        return self.next_number - 1

    def module(self, name: str) -> object:
        """One of the modules of the submission's tree."""
        return importlib.import_module(name)

    def answer(self, request: Frame) -> Frame:
        """Run one request; whatever the student's code raises becomes an error in the reply.

        `left_behind` names settings that the request changed for good; they are put back.
        """
        header = request.header
        reply: dict = {"id": header["id"]}
        before = state.note()
        frame = self._run(header, request, reply)
        try:
            frame.header["left_behind"] = state.restore(before)
        except Exception as error:  # a submission that replaced functions of torch or NumPy
            return Frame({**reply, "ok": False, "error": self.describe(error)})
        return frame

    def _run(self, header: dict, request: Frame, reply: dict) -> Frame:
        """The answer to one request."""
        try:
            if not self.operations:  # late, so that importing torch counts against a request
                self.operations = load_operations()
                if self.alone:
                    hide_own_modules()
            assignment, _dot, name = header["op"].rpartition(".")
            operation = getattr(self.operations[assignment], f"op_{name}")
            result, arrays = operation(self, header.get("args", {}), request.arrays)
            return Frame({**reply, "ok": True, "result": result}, arrays)
        except BaseException as error:  # SystemExit and its like included
            return Frame({**reply, "ok": False, "error": self.describe(error)})

    def describe(self, error: BaseException) -> dict:
        """Type, message and the student's own frames of an exception, cut short and without this machine's paths."""
        try:
            message = str(error)
        except BaseException:
            message = "(its text could not be read)"
        frames = []
        for frame, line in traceback.walk_tb(error.__traceback__):
            name = frame.f_code.co_filename
            if name.startswith(self.folder + os.sep):
                code = linecache.getline(name, line).strip()[:160]
                frames.append(f"{os.path.relpath(name, self.folder)}:{line} in {frame.f_code.co_name}: {code}")
        message = message.replace(self.folder + os.sep, "")[:MAX_MESSAGE]
        frames = [_whole(frame) for frame in frames[-MAX_FRAMES:]]
        return {"type": _whole(type(error).__name__[:80]), "message": _whole(message), "frames": frames}

    def serve(self) -> None:
        """Answer until the grader closes the pipe."""
        while True:
            try:
                request = self.channel.receive()
            except PeerClosed:
                return
            faulthandler.dump_traceback_later(LATE * request.header["seconds"], repeat=True, file=STDOUT)
            reply = self.answer(request)
            faulthandler.cancel_dump_traceback_later()
            try:
                self.channel.send(reply)
            except PeerClosed:
                return
            except Exception as error:  # an array that may not cross, a reply too large
                self.channel.send(Frame({"id": request.header["id"], "ok": False, "error": self.describe(error)}))


def _whole(text: str) -> str:
    """Text without half characters, which may not cross."""
    return text.encode("utf-8", "replace").decode()


def load_operations() -> dict[str, types.ModuleType]:
    """Assignment -> its operations: "forward" is in operations.py here (key ""), "hw5.cases" in that of hw5."""
    found = {"": importlib.import_module("staff.student_side.operations")}
    staff = Path(__file__).resolve().parents[1]
    for path in sorted(staff.glob("assignments/*/operations.py")):
        found[path.parent.name] = importlib.import_module(f"staff.assignments.{path.parent.name}.operations")
    return found


def hide_own_modules() -> None:
    """None of our modules can be imported here any more: a submission could hand one in as its answer."""
    ours = Path(__file__).resolve().parents[2]
    for name in [name for name in sys.modules if name.partition(".")[0] == "staff"]:
        del sys.modules[name]
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != ours]


def start(read_fd: int, write_fd: int, folder: str) -> None:
    """First frame: what to give up and which paths must be out of sight. Then serve."""
    channel = Channel(read_fd, write_fd)
    first = channel.receive()
    in_force = lockdown.apply(first.header["lockdown"])
    visible = lockdown.readable_paths(first.header["secret_paths"])
    channel.send(Frame({"in_force": in_force, "visible": visible, "python": sys.version.split()[0]}))
    sys.dont_write_bytecode = True
    # At the end, so that a planted numpy.py or torch.py is never found first.
    sys.path.append(folder)
    Worker(channel, folder, alone=True).serve()
    os._exit(0)
