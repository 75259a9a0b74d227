"""Check files of mistakes: each `old` occurs exactly once in its base, and what was changed compiles and imports.

python bank/check_mistakes.py bank/mistakes_dev.toml [more.toml ...]
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

import matplotlib

RIGHT = Path(__file__).parent / "right"
# Models first: segmentation_train imports them.
MODULES = ("classification_models", "segmentation_models", "classification_train", "segmentation_train")
TODOS = {f"1.{n}" for n in range(7)} | {f"2.{n}" for n in range(9)}


def changed_files(entry: dict) -> dict[str, str]:
    """Module name -> text with the mistake. ValueError if a text to replace does not occur exactly once."""
    texts = {name: (RIGHT / entry["base"] / f"{name}.py").read_text(encoding="utf-8") for name in MODULES}
    for edit in [entry, *entry.get("edits", [])]:
        name = edit["file"].removesuffix(".py")
        found = texts[name].count(edit["old"])
        if found != 1:
            raise ValueError(f"the text to replace occurs {found} times in {edit['file']}, expected once")
        texts[name] = texts[name].replace(edit["old"], edit["new"])
    return texts


def import_all(texts: dict[str, str]) -> None:
    """Compile and run the four modules, each under its own name so that they find each other."""
    for name, text in texts.items():
        module = types.ModuleType(name)
        sys.modules[name] = module
        exec(compile(text, f"{name}.py", "exec"), module.__dict__)


def check(entry: dict, seen: set[str]) -> str:
    """What is wrong with one entry; empty if nothing is."""
    if entry["name"] in seen:
        return "another entry has this name"
    if not entry["todo"] or not set(entry["todo"]) | set(entry["may_cost"]) <= TODOS:
        return f"todo is {entry['todo']} and may_cost {entry['may_cost']}; allowed: 1.0 to 1.6 and 2.0 to 2.8"
    try:
        import_all(changed_files(entry))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    """Check every file named on the command line; exit code 1 if an entry is wrong."""
    matplotlib.use("Agg")
    seen: set[str] = set()
    wrong = 0
    for path in sys.argv[1:]:
        entries = tomllib.loads(Path(path).read_text(encoding="utf-8"))["mistake"]
        for entry in entries:
            problem = check(entry, seen)
            seen.add(entry["name"])
            if problem:
                wrong += 1
                print(f"{path}: {entry['name']}: {problem}")
        print(f"{path}: {len(entries)} mistakes")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
