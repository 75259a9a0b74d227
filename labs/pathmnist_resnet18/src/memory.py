"""How much memory this process has held at most."""

from __future__ import annotations

import sys

import psutil


def peak_bytes() -> int:
    """Largest resident memory of this process so far, in bytes; the pages of a mapped file count while they are in."""
    if sys.platform == "linux":
        # ru_maxrss would do, but a child inherits its parent's peak there; VmHWM starts again with the program.
        with open("/proc/self/status", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    own = psutil.Process().memory_info()
    if hasattr(own, "peak_wset"):  # Windows
        return own.peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes
