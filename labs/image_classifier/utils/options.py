"""Types of command-line flags that several commands of the lab share."""

from __future__ import annotations

from argparse import ArgumentTypeError

ALL_FRAMES = "all"


def frame_choice(text: str) -> str:
    """An argparse type: '' (none named), a frame's number from 1, or 'all'."""
    if text in ("", ALL_FRAMES) or (text.isdecimal() and int(text) >= 1):
        return text
    raise ArgumentTypeError(f"{text!r} is not allowed; give the number of a frame, from 1, or all")
