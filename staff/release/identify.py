"""Whose copy of the starter did a file come from?

python -m staff.identify classification_train.py --secret course.key --roster roster.txt
"""

from __future__ import annotations

from pathlib import Path

from toolkit.cli import OneLineParser, in_range


def build_parser() -> OneLineParser:
    """The flags."""
    parser = OneLineParser(description="Name the watermarked copy that files came from.")
    parser.add_argument("files", nargs="+", type=Path, help="graded files under their own names, or folders of them")
    parser.add_argument("--secret", type=Path, required=True, help="the file that make_starter was given")
    parser.add_argument("--roster", type=Path, required=True, help="text file with one student's ID a line")
    parser.add_argument("--assignment", default="project2", help="name of a folder in staff/assignments")
    parser.add_argument("--best", type=in_range(int, 1), default=3, help="how many candidates to list")
    return parser


def main() -> int:
    """Parse, read, compare, list; exit 1 if no student of the roster is likelier than all else together."""
    args = build_parser().parse_args()

    from staff.release.starter import recipe, watermark
    from toolkit.errors import UserError

    secret = watermark.read_secret(args.secret)
    roster = [line.strip() for line in args.roster.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not roster:
        raise UserError(f"--roster {args.roster} names nobody")
    graded = {Path(name).name: name for name in recipe.load(args.assignment).graded}
    paths = [path / name for path in args.files if path.is_dir() for name in graded.values() if (path / name).is_file()]
    paths += [path for path in args.files if not path.is_dir()]
    wrong = [str(path) for path in paths if path.name not in graded]
    if wrong or not paths:
        raise UserError(f"{', '.join(wrong) or 'no file'}: only graded files carry marks: {', '.join(graded)}")
    texts = {graded[path.name]: path.read_text(encoding="utf-8", errors="replace") for path in paths}
    guesses = watermark.identify(texts, secret, roster)
    print(f"{guesses[0].sites} sites in {', '.join(map(str, paths))}; candidates with equal odds beforehand:")
    for guess in guesses[: args.best]:
        agreeing = "" if guess.student == watermark.NOBODY else f", {guess.agreeing} of {guess.sites} sites agree"
        print(f"{guess.student}: {guess.probability:.2%}{agreeing}")
    print("a mark shows whose copy the file was, not who handed it on; a person decides")
    return 0 if guesses[0].student in roster and guesses[0].probability > 0.5 else 1
