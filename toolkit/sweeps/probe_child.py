"""Child process of script.py: runs an unmodified script up to its argparse, describes its flags, tries points on them.

Started by path, so it imports nothing of this project: the script must find exactly the import path that it has when
it is started from the shell. Dialogue, one JSON line each: in {"script", "module"}; out {"flags", "positional" (the
names of arguments without a flag that must be given), "files" (of all modules that the script has imported so far)};
then, as often as asked, in {"points"}, out {"problems"}: for each point the message of argparse, or null.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys

NO_ARGPARSE = 3


class Refused(BaseException):
    """What argparse would have printed; no Exception, so that a script's `except Exception` cannot swallow it."""


def describe(action: argparse.Action) -> dict:
    """The facts about one flag that the dispatcher needs to write it on a command line (script.Flag)."""
    kind = type(action).__name__.strip("_").replace("Action", "").lower()  # store, storetrue, booleanoptional, ...
    return {
        "options": sorted(action.option_strings, key=lambda option: not option.startswith("--")),  # long ones first
        "kind": kind,
        "nargs": action.nargs,
        "type": getattr(action.type, "__name__", None),
    }


def imported_files() -> list[str]:
    """Of every module that has been imported so far, but for the standard library and installed packages."""
    library = os.path.dirname(os.__file__)
    files = [vars(module).get("__file__") or "" for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
    return [one for one in files if one.endswith(".py") and "-packages" not in one and not one.startswith(library)]


def refuse(parser: argparse.ArgumentParser, message: str) -> None:
    """Stands in for ArgumentParser.error, which would print the usage and exit."""
    raise Refused(message)


def try_point(parser: argparse.ArgumentParser, argv: list[str]) -> str | None:
    """None if the script's own parser takes `argv`, else its message."""
    try:
        original_parse_args(parser, argv)
    except Refused as refused:
        return str(refused)
    except SystemExit:
        return "the script would print its help or version and end"
    except Exception as error:  # a `type` function of the script that fails in its own way
        return f"{type(error).__name__}: {error}"
    return None


def talk(parser: argparse.ArgumentParser) -> None:
    """Hold the dialogue about `parser`, then end this process without running another line of the script."""
    argparse.ArgumentParser.parse_known_args = original_parse_known_args
    for kind in type(parser).__mro__:  # a script's own kind of parser may have its own `error`
        if "error" in vars(kind):
            kind.error = refuse
    flags = [describe(action) for action in parser._actions if action.option_strings]
    flags = [flag for flag in flags if flag["kind"] not in ("help", "version")]
    needed = [one for one in parser._actions if not one.option_strings and one.required]
    positional = [one.metavar or one.dest.replace(argparse.SUPPRESS, "a command") for one in needed]
    say({"flags": flags, "positional": list(map(str, positional)), "files": imported_files()})
    for line in commands:
        say({"problems": [try_point(parser, argv) for argv in json.loads(line)["points"]]})
    os._exit(0)  # not sys.exit: the script may catch SystemExit, and its threads must not keep us


def parse_args_stand_in(parser: argparse.ArgumentParser, args=None, namespace=None) -> None:
    talk(parser)


def parse_known_args_stand_in(parser: argparse.ArgumentParser, args=None, namespace=None):
    """A parser without --help is the usual first look for `--config FILE`; the script's real parser comes after it."""
    if parser.add_help:
        talk(parser)
    return original_parse_known_args(parser, args, namespace)


def say(message: dict) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    # The script may read and print; the dialogue keeps the real pipes and gives it the null device and stderr.
    commands = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    request = json.loads(commands.readline())
    original_parse_args = argparse.ArgumentParser.parse_args
    original_parse_known_args = argparse.ArgumentParser.parse_known_args
    argparse.ArgumentParser.parse_args = parse_args_stand_in
    argparse.ArgumentParser.parse_known_args = parse_known_args_stand_in
    sys.argv = [request["script"]]
    if request["module"]:
        sys.path[0] = os.getcwd()
        runpy.run_module(request["script"], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(request["script"]))
        runpy.run_path(request["script"], run_name="__main__")
    os._exit(NO_ARGPARSE)
