"""Prove that a starter leaks nothing, misses nothing and behaves as a starter should.

    python -m staff.check_starter build/starter

Prints a line for each proof, with counts. Exit code 0: all hold; 1: some do not, and what contradicts them is named.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from staff.release.starter import behaviour, contents, leaks, release, todos, typed
from staff.release.starter import recipe as recipes
from staff.release.starter.build import build
from staff.release.starter.markers import read_graded
from staff.release.starter.proof import Proof
from staff.release.starter.recipe import Recipe
from toolkit.cli import OneLineParser
from toolkit.errors import UserError


def build_parser() -> OneLineParser:
    """The flags."""
    parser = OneLineParser(description="Prove that a starter leaks nothing and behaves as a starter should.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="a release made by staff.make_starter")
    parser.add_argument("--source", type=Path, help="the staff repository (default: the one this file is in)")
    parser.add_argument("--static", action="store_true", help="only read the files; run nothing of the starter")
    return parser


def main() -> int:
    """Parse, prove, report; 1 if a proof fails."""
    args = build_parser().parse_args()

    started = time.perf_counter()
    record = release.read_manifest(args.folder)
    if record is None:
        raise UserError(f"{args.folder} is not a release: it has no {release.RELEASE_FILE} of staff.make_starter")
    source = args.source.resolve() if args.source else recipes.ROOT
    recipe = recipes.load(record["assignment"], source, record.get("dataset"))
    found = release.read_folder(args.folder)
    failed = proved = 0
    for proof in all_proofs(recipe, record, found, static=args.static):
        print(proof, flush=True)
        proved += 1
        failed += bool(proof.problems)
    verdict = f"{failed} of {proved} proofs failed" if failed else f"all {proved} proofs hold"
    print(f"{args.folder}: {verdict} ({time.perf_counter() - started:.0f} s)")
    return 1 if failed else 0


def all_proofs(recipe: Recipe, record: dict[str, Any], found: dict[str, bytes], *, static: bool) -> Iterator[Proof]:
    """Yield every Proof about a starter: first what can be read, then what must be run, on a copy."""

    graded = read_graded(recipe)
    expected = build(recipe, classroom=record.get("classroom", False))
    expected.files[release.RELEASE_FILE] = found[release.RELEASE_FILE]
    provided = {
        name: data.decode()
        for name, data in expected.files.items()
        if name.endswith(".py") and not name.startswith("tests/") and name not in recipe.graded
    }
    originals = {item.name: item.original for item in graded}
    evidence = leaks.collect(originals, provided, recipe.settings["common_names"])
    yield contents.proves_release_file(found, expected.commit, record)
    yield contents.proves_files(recipe, found, expected.files)
    yield contents.proves_round_trip(found, graded)
    yield contents.proves_no_leak(found, evidence, recipe.graded)
    yield contents.proves_no_markers(found, contents.machine_paths(recipe))
    yield contents.proves_hidden_data(recipe, found)
    yield contents.proves_data_set(recipe, found)
    yield typed.proves_typed(recipe, found, classroom=record.get("classroom", False))
    yield typed.proves_paths(recipe, found)
    if static:
        return
    with tempfile.TemporaryDirectory(prefix="check-starter-") as folder:
        copy = Path(folder) / "starter"
        release.write_release(copy, found)
        yield behaviour.proves_imports(copy, sorted(found))
        yield behaviour.proves_ruff(copy, sorted(found))
        numbers = [record["id"] for record in todos.records(recipe)]
        yield behaviour.proves_tests(copy, {number: todos.marker(recipe, number) for number in numbers})
        yield behaviour.proves_solution(copy, originals)
