"""Why a job ended as it did: the kind of failure, one line for people, and whether another try can help."""

from __future__ import annotations

import os
import re
import signal

EXIT, SIGNAL, TIMEOUT = "exit code", "signal", "timeout"
OUT_OF_MEMORY, BAD_RESULTS, LOST = "out of memory", "bad results", "lost"

MEMORY_MESSAGES = re.compile(
    r"CUDA out of memory|out of GPU memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|CUDA error: out of memory|"
    r"MPS backend out of memory|DefaultCPUAllocator: can't allocate|^MemoryError|std::bad_alloc",
    re.MULTILINE,
)
# A second try of these ends in the same place: they are mistakes in the code or in the flags.
MISTAKES = re.compile(
    r"^(?:\w+\.)*(NotImplementedError|ImportError|ModuleNotFoundError|SyntaxError|IndentationError|TabError|NameError|"
    r"UnboundLocalError|TypeError|AttributeError|ValueError|UserError|KeyError|IndexError|AssertionError|"
    r"ZeroDivisionError|FileNotFoundError|PermissionError|error)\b"
)
USER_ERROR_CODE = 2  # argparse and the mains of this course end so


def read_tail(folder: str, size: int = 4000) -> str:
    """The last `size` bytes of the job's log.txt."""
    try:
        with open(os.path.join(folder, "log.txt"), "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return file.read().decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""


def last_line(text: str) -> str:
    """The last line that says something; progress bars overwrite theirs with carriage returns."""
    lines = [line.rsplit("\r", 1)[-1].strip() for line in text.splitlines()]
    return next((line[:300] for line in reversed(lines) if line), "")


def explain_exit(code: int, log_tail: str) -> tuple[str, str]:
    """(kind, one line) for a job that ended with `code`; negative codes are signals, as in subprocess."""
    line = last_line(log_tail)
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        said_so = MEMORY_MESSAGES.search(log_tail)
        return (OUT_OF_MEMORY if said_so else SIGNAL), f"ended by {name}" + (f" after: {line}" if line else "")
    if MEMORY_MESSAGES.search(log_tail):
        return OUT_OF_MEMORY, line
    return EXIT, f"exit code {code}: {line}" if line else f"exit code {code}"


def may_help_to_retry(kind: str | None, detail: str | None) -> bool:
    """True for crashes; False for user errors, mistakes in the code, timeouts and missing results."""
    if kind in (SIGNAL, LOST):
        return True
    if kind != EXIT:
        return False
    code, _, line = (detail or "").removeprefix("exit code ").partition(": ")
    return code != str(USER_ERROR_CODE) and not MISTAKES.match(line)
