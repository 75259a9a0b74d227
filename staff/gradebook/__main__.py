"""The grades of a term: `python -m staff.gradebook COMMAND ...`; each command answers --help."""

from __future__ import annotations

import importlib
import sys

from toolkit.cli import run_script
from toolkit.errors import UserError

# Command -> (module with its `main(argv)`, what it does). Imported when it is asked for: --help needs none of them.
COMMANDS: dict[str, tuple[str, str]] = {
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
    return importlib.import_module(COMMANDS[name][0]).main(argv)


if __name__ == "__main__":
    run_script(main)
