"""Which submissions share more code than independent ones do: `python -m staff.gradebook similar FOLDER`.

They are compared with each other, with earlier terms and with the solutions that lie in this repository. Code of the
starter, and code that independent solutions have in common, does not count. The result is a list for a person to
judge, no verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from staff.gradebook import similarity_page
from staff.gradebook.handed_in import find_entries
from staff.gradebook.similarity import COMMON, LEAST_PRINTS, Work, common_code, grams_of, make_work, suspects, without
from staff.grader import assignment as assignments
from staff.grader.packing import printable
from staff.grader.submission import read_submission
from staff.quality import bank
from staff.release.starter import recipe
from staff.release.starter.markers import read_graded
from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError

MOST_PAGES = 200


def starter_hashes(name: str) -> frozenset[int]:
    """The hashes of all code that students are given in the graded files of an assignment."""
    return frozenset(number for item in read_graded(recipe.load(name)) for number, _, _ in grams_of(item.starter))


def public_works(name: str) -> list[Work]:
    """The solutions that lie in this repository: the reference and, for Project 2, the bank's right solutions."""
    solutions = {"reference": {item.name: item.original for item in read_graded(recipe.load(name))}}
    if name == bank.PROJECT2:
        solutions |= {one.name: one.files for one in bank.load_bank() if one.is_right}
    return [make_work(f"{who} (public)", "public", files) for who, files in solutions.items()]


def given_code(name: str, works: Sequence[Work]) -> frozenset[int]:
    """Hashes that say nothing: of the starter, and of what independent solutions have in common.

    Without a bank of such solutions, what half of the class has counts as common.
    """
    if name == bank.PROJECT2:
        whole = [make_work(one.name, "public", one.files) for one in bank.load_bank() if one.is_whole]
        return starter_hashes(name) | frozenset(common_code(whole))
    return starter_hashes(name) | frozenset(common_code(works, max(COMMON, len(works) // 2)))


def read_works(folder: Path, origin: str, name: str, out: Path) -> tuple[list[Work], list[str]]:
    """(Works of a folder's submissions, one line for each that cannot be compared)."""
    assignment = assignments.load(name)
    allowed = {file: size for file, size in assignment.files.items() if file.endswith(".py")}
    works, problems = [], []
    for who, path in find_entries(folder, out)[0]:
        who = printable(who.encode("utf-8", "backslashreplace").decode())
        try:
            files = read_submission(path, allowed).files
        except Exception as error:  # whatever one submission raises, the others are compared
            problems.append(f"{who}: {printable(str(error) or type(error).__name__, 300)}")
            continue
        sources = {file: content.decode("utf-8", "replace") for file, content in files.items()}
        works.append(make_work(who if origin == "class" else f"{folder.name}: {who}", origin, sources))
    return works, problems


def build_parser() -> OneLineParser:
    """Flags of the command line."""
    parser = OneLineParser(prog="staff.gradebook similar", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with one folder or zip archive a student")
    parser.add_argument("--assignment", default="project2", help="name of a folder in staff/assignments")
    parser.add_argument("--earlier", type=Path, nargs="+", default=[], help="such folders of earlier terms")
    parser.add_argument("--out", type=Path, help="folder for the pages (default: FOLDER-similar)")
    parser.add_argument("--most", type=in_range(int, 1), default=MOST_PAGES, help="pairs that get a page")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Read, compare, write the pages."""
    arguments = build_parser().parse_args(argv)
    folder, name = arguments.folder.resolve(), arguments.assignment
    out = (arguments.out or folder.with_name(f"{folder.name}-similar")).resolve()
    if out == folder or out in folder.parents:
        raise UserError(f"--out is {str(out)!r}, which holds the submissions; choose another folder")
    assignments.load(name)
    works, problems = read_works(folder, "class", name, out)
    others = public_works(name)
    for number, earlier in enumerate(arguments.earlier):
        found, wrong = read_works(earlier.resolve(), "earlier", name, out / f"earlier{number}")
        others += found
        problems += [f"{earlier.name}: {line}" for line in wrong]
    given = given_code(name, works)
    works, others = ([without(work, given) for work in group] for group in (works, others))
    few = [work for work in works if len(work.all_prints) < LEAST_PRINTS]
    problems += [f"{work.name}: hardly any code of its own ({len(work.all_prints)} fingerprints)" for work in few]
    pairs = suspects(works, others)
    page = similarity_page.write(pairs[: arguments.most], works, problems, given, out)
    print(f"{len(works)} submissions, compared with each other and {len(others)} others: {len(pairs)} pairs to look at")
    for pair in pairs[:20]:
        print(f"{pair.first.name} and {pair.second.name}: {similarity_page.told(pair)}")
    if len(pairs) > arguments.most:
        print(f"note: pages only for the {arguments.most} most similar pairs; --most {len(pairs)} for all")
    for line in problems:
        print(f"not compared: {line}")
    print(page)
    return 0


if __name__ == "__main__":
    run_script(main)
