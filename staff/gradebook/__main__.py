"""The grades of a term: `python -m staff.gradebook COMMAND ...`; each command answers --help."""

from __future__ import annotations

import importlib
import sys

from toolkit.cli import run_script
from toolkit.errors import UserError

# Command -> (module:function of argv (main), what it does). Imported when it is asked for.
COMMANDS: dict[str, tuple[str, str]] = {
    "collect": ("staff.gradebook.collect", "put the downloads of a course's site into a term's folder, by student"),
    "sum": ("staff.gradebook.commands:sum_main", "sum up results, decisions and late days: TERM/draft"),
    "publish": ("staff.gradebook.commands:publish_main", "write what students get: TERM/published"),
    "decide": (
        "staff.gradebook.commands:decide_main",
        "add an override, a comment, an extension, ... to TERM/decisions.toml",
    ),
    "history": ("staff.gradebook.commands:history_main", "what was graded, decided and published for a student"),
    "serve": ("staff.gradebook.serve", "grade answers and reports in a browser"),
    "similar": ("staff.gradebook.similar", "which submissions share more code than independent ones do"),
}


def main() -> int | None:
    """Hand the command line to its command."""
    name, argv = sys.argv[1] if len(sys.argv) > 1 else "--help", sys.argv[2:]
    if name in ("-h", "--help"):
        print(__doc__)
        print("\n".join(f"  {command:<12} {what}" for command, (_, what) in COMMANDS.items()))
        return 0
    if name not in COMMANDS:
        raise UserError(f"command is {name!r}; allowed: {', '.join(COMMANDS)}")
    module, _, function = COMMANDS[name][0].partition(":")
    return getattr(importlib.import_module(module), function or "main")(argv)


if __name__ == "__main__":
    run_script(main)
