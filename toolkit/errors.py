"""The one exception that means "the user can fix this": scripts print its line and exit with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 30  # names in a message


class UserError(ValueError):
    """A mistake of the caller. The message is one line: what is wrong, its value, what is allowed or what to do."""


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Raise UserError unless `value` is one of `allowed`; the message lists them in the order given."""
    allowed = list(allowed)
    if value not in allowed:
        raise UserError(f"{name} is {value!r}; {listed(value, map(str, allowed))}")


def listed(value: object, allowed: Iterable[str]) -> str:
    """'allowed: a, b, c', in the order given; of more than LISTED names those most like `value`, and how many."""
    names = list(allowed)
    if len(names) <= LISTED:
        return f"allowed: {', '.join(names)}"
    close = difflib.get_close_matches(str(value), names, 3, 0.5) or names[:3]
    return f"allowed: {', '.join(close)} and {len(names) - len(close)} others"


def reason_of(error: BaseException, limit: int = 400) -> str:
    """All lines of an error's message as one of at most `limit` letters; the name of its class if it has no message."""
    lines = [line.strip(" -\t").rstrip(":;") for line in str(error).splitlines()]
    text = "; ".join(line for line in lines if line) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
