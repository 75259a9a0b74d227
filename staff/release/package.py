"""Pack the grader for another machine: `python -m staff.package gradescope`.

The zip holds setup.sh, run_autograder and the grader with its hidden data, and neither the solution nor the attacks. It
must not get into the hands of students.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from staff.grader import assignment as assignments
from staff.grader import facts
from staff.release.starter import recipe as recipes
from toolkit.cli import OneLineParser
from toolkit.errors import UserError
from toolkit.runs import write_bytes

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = Path(__file__).parent / "gradescope"
# The grader's own files; what the assignment provides and its hidden data are added. No graded module is packed.
GRADER = (
    "staff/__init__.py",
    "staff/grade.py",
    "staff/student_side/*.py",
    "staff/grader/*",
    "staff/grader/reports/*.py",
    "staff/assignments/__init__.py",
    "staff/assignments/course.toml",
    "staff/assignments/{assignment}/*.py",
    "staff/assignments/{assignment}/assignment.toml",
    "staff/assignments/{assignment}/patterns.json",
    "staff/assignments/{assignment}/graded_tests/*.py",
    "toolkit/*.py",
)
TIME = (2026, 1, 1, 0, 0, 0)  # of every entry, so that the same files give the same bytes


def build_parser() -> OneLineParser:
    """Flags of the command line."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", choices=("gradescope",), help="for which site")
    parser.add_argument("--assignment", default="project2", help="name of a folder in staff/assignments")
    parser.add_argument("--out", type=Path, help="file to write (default: build/ASSIGNMENT-gradescope.zip)")
    parser.add_argument("--require", choices=("bwrap", "user"), help="refuse to grade without this sandbox layer")
    parser.add_argument(
        "--data", type=Path, help="the full set, e.g. pathmnist.npz, to grade on it and not on the bundled sample"
    )
    return parser


def contents(assignment, data: Path | None) -> dict[str, Path]:
    """Name in the archive -> file."""
    files: dict[str, Path] = {name: ROOT / name for name in ("requirements.txt", "constraints.txt")}
    for pattern in [pattern.format(assignment=assignment.name) for pattern in GRADER]:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and name not in assignment.files:
                files[f"grader/{name}"] = path
    own = assignment.provided_files().values()
    files |= {f"grader/{path.relative_to(ROOT).as_posix()}": path for path in own}
    if assignment.dataset is None:
        if data is not None:
            raise UserError(f"--data: the checks of {assignment.name} draw their own data and read none")
        return files
    files |= {f"grader/{name}": ROOT / name for name in bundled(assignment.name)}
    if data is not None:
        if not data.is_file():
            raise UserError(f"data is {str(data)!r}, which is not a file")
        files[f"grader/data/{assignment.dataset.flag}.npz"] = data
    return files


def bundled(assignment: str) -> list[str]:
    """The bundled data of an assignment, as its starter names it; here with the arrays that are held back."""
    recipe = recipes.load(assignment)
    return [recipe.settings["data"]["manifest"], *(item["file"] for item in recipe.data_sets)]


def scripts(assignment: str, require: str | None) -> dict[str, str]:
    """setup.sh and run_autograder with the settings filled in."""
    words = {"@ASSIGNMENT@": assignment, "@REQUIRE@": f"--require {require}" if require else ""}
    found = {}
    for path in (TEMPLATES / "setup.sh", TEMPLATES / "run_autograder"):
        text = path.read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(word, value)
        found[path.name] = text
    return found


def pack(name: str, require: str | None = None, data: Path | None = None) -> tuple[bytes, int]:
    """(the archive of an assignment's grader, number of its files); the flags explain `require` and `data`."""
    assignment = assignments.load(name)
    entries: dict[str, bytes] = {n: t.encode() for n, t in scripts(name, require).items()}
    entries[f"grader/{facts.COMMIT_FILE.name}"] = facts.grader_versions()["commit"].encode()  # results name it
    entries |= {name: file.read_bytes() for name, file in contents(assignment, data).items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name, TIME)
            info.external_attr = (0o755 if name in ("setup.sh", "run_autograder") else 0o644) << 16
            info.compress_type = zipfile.ZIP_STORED if name.endswith(".npz") else zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return buffer.getvalue(), len(entries)


def main() -> None:
    """Parse, pack, say what was done."""
    arguments = build_parser().parse_args()
    path = arguments.out or ROOT / "build" / f"{arguments.assignment}-{arguments.site}.zip"
    content, count = pack(arguments.assignment, arguments.require, arguments.data)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)
    print(
        f"{path}: {count} files, {path.stat().st_size / 1e6:.1f} MB; it holds the graded tests, keep it from students"
    )
