"""Build a student's repository from the reference solution.

python -m staff.make_starter --assignment project2 --out build/starter
python -m staff.check_starter build/starter
"""

from __future__ import annotations

from pathlib import Path

from staff.release.starter import recipe as recipes
from staff.release.starter import release
from staff.release.starter.build import Build, build
from staff.release.starter.markers import read_graded
from staff.release.starter.recipe import Recipe
from toolkit.cli import OneLineParser


def build_parser() -> OneLineParser:
    """The flags."""
    parser = OneLineParser(description="Build a student's repository from the reference solution.")
    parser.add_argument("--assignment", default="project2", help="name of a folder in staff/assignments")
    parser.add_argument("--out", required=True, help="folder to make; an older release there is replaced")
    parser.add_argument("--dataset", metavar="FLAG", help="another set of MedMNIST than the assignment's, to try it")
    parser.add_argument(
        "--solution", action="store_true", help="with the solutions in place, to grade them: not for students"
    )
    parser.add_argument("--zip", action="store_true", help="also write OUT.zip")
    parser.add_argument("--classroom", action="store_true", help="add the workflow of a GitHub Classroom template")
    parser.add_argument("--source", type=Path, help="the staff repository (default: the one this file is in)")
    return parser


def starter(recipe: Recipe, *, classroom: bool = False, solution: bool = False) -> Build:
    """A whole starter, with its RELEASE.json; with `solution` what a perfect student makes of it."""
    made = build(recipe, classroom=classroom)
    if solution:
        made.files |= {item.name: item.original.encode() for item in read_graded(recipe)}
    options = {"classroom": classroom} | ({"dataset": recipe.dataset.flag} if recipe.dataset else {})
    made.files[release.RELEASE_FILE] = release.manifest(made.files, recipe.name, made.commit, **options)
    return made


def main() -> None:
    """Parse, build, write, say what was done."""
    args = build_parser().parse_args()

    recipe = recipes.load(args.assignment, args.source.resolve() if args.source else recipes.ROOT, args.dataset)
    folder = Path(args.out)
    release.check_target(folder)
    made = starter(recipe, classroom=args.classroom, solution=args.solution)
    kept = release.write_release(folder, made.files)
    for note in made.notes:
        print(f"note: {note}")
    if kept:
        print(f"note: the older release had changes in it; it is kept as {kept}")
    size = sum(map(len, made.files.values()))
    print(f"{folder}: {len(made.files)} files, {size / 1e6:.1f} MB, from commit {made.commit}")
    if args.zip:
        path = folder.with_name(folder.name + ".zip")
        digest = release.write_zip(path, made.files, recipe.name)
        print(f"{path}: SHA-256 {digest}")
    print(f"prove it leak-free: python -m staff.check_starter {folder}")
