"""A class of accidents: `python -m staff.accidents FOLDER [--quick]`.

Each submission shows what goes wrong when work is handed in: encodings, archives, names,
loops, checkpoints, huge files, states of git; for both assignments. The class is made in FOLDER, graded by
`staff.grade_class`, and every row must be explained: with a reason why there is no grade, a note how it was read, or
what a check met.
`--quick` grades nothing: it reads every submission and looks at what reading alone can explain.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from staff.gradebook import grade_class
from staff.gradebook.handed_in import find_entries
from staff.grader import assignment as assignments
from staff.grader.packing import printable
from staff.grader.reports.feedback import shown_message
from staff.grader.submission import read_submission
from toolkit.errors import UserError
from toolkit.runs import read_json

ROOT = Path(__file__).resolve().parents[2]
MODELS, LOSSES = "classification_models.py", "segmentation_models.py"
HW5 = ("labs/hw5_pneumonia/hw5_dl.py", "labs/hw5_pneumonia/hw5_evaluate.py")
Files = dict[str, bytes]
Make = Callable[[Path, Files], None]


@dataclass
class Accident:
    """One submission. says: what its row must tell; by_reading: whether reading it tells that, without a grading."""

    assignment: str
    name: str
    make: Make
    says: str
    by_reading: bool = True


def right_files(assignment: str) -> Files:
    """What a good student hands in; of Project 2 one module, so that grading it is quick."""
    names = (LOSSES,) if assignment == "project2" else HW5
    return {name: (ROOT / name).read_bytes() for name in names}


def write(folder: Path, files: Files) -> None:
    """Files below a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def as_zip(path: Path, files: Files, rename: Callable[[str], str] = str) -> None:
    """A zip next to `path`."""
    with zipfile.ZipFile(path.with_name(f"{path.name}.zip"), "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("x")
            info.filename = rename(name)  # as it stands: ZipInfo turns backslashes
            archive.writestr(info, content)


def zip_of(files: Files) -> bytes:
    """A zip's content."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def with_password(archive: bytes) -> bytes:
    """A zip whose first file is marked as encrypted."""
    marked = bytearray(archive)
    marked[6] |= 1
    marked[archive.index(b"PK\x01\x02") + 8] |= 1
    return bytes(marked)


def packed(path: Path, files: Files, ending: str = ".zip") -> None:
    """A zip next to `path`."""
    path.with_name(path.name + ending).write_bytes(zip_of(files))


def flat(files: Files) -> Files:
    """The files without their folders."""
    return {Path(name).name: content for name, content in files.items()}


def as_tar(path: Path, files: Files) -> None:
    """A .tar.gz next to `path`."""
    with tarfile.open(path.with_name(f"{path.name}.tar.gz"), "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"work/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def loose(rename: Callable[[str], str]) -> Make:
    """Files in the class's own folder, named by a site."""

    def make(path: Path, files: Files) -> None:
        for name, content in files.items():
            (path.parent / rename(Path(name).name)).write_bytes(content)

    return make


def changed(*pairs: tuple[bytes, bytes], **more: bytes) -> Make:
    """The right files with text replaced in each, and further files by name."""

    def make(path: Path, files: Files) -> None:
        for old, new in pairs:
            files = {name: content.replace(old, new, 1) for name, content in files.items()}
        write(path, files | {name.replace("__", "."): content for name, content in more.items()})

    return make


def renamed(rename: Callable[[str], str]) -> Make:
    """The right files under other names."""
    return lambda path, files: write(path, {rename(name): content for name, content in files.items()})


def recoded(encode: Callable[[str], bytes]) -> Make:
    """The right files in another encoding."""
    return lambda path, files: write(path, {name: encode(content.decode()) for name, content in files.items()})


def only(**files: bytes) -> Make:
    """None of the right files."""
    return lambda path, _files: (path.mkdir(), write(path, {n.replace("__", "."): c for n, c in files.items()}))


def file(ending: str, content: bytes) -> Make:
    """One file next to `path`."""
    return lambda path, _files: path.with_name(path.name + ending).write_bytes(content)


def git(folder: Path, *words: str) -> None:
    """Run git with a name of our own."""
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


def repository(*subjects: str, uncommitted: bool = False, clone: tuple[str, ...] = ()) -> Make:
    """A repository with a commit for each subject; `uncommitted`: the work is in the folder only."""

    def make(path: Path, files: Files) -> None:
        path.mkdir()
        git(path, "init", "-q")
        for number, subject in enumerate(subjects):
            early = {name: content[: len(content) * (number + 1) // len(subjects)] for name, content in files.items()}
            write(path, early if number + 1 < len(subjects) or uncommitted else files)
            git(path, "add", ".")
            git(path, "commit", "-q", "-m", subject)
        if uncommitted:
            write(path, {name: content + b"\n# at home\n" for name, content in files.items()})
        if clone:
            full = path.with_name(f"{path.name}.full")
            path.rename(full)
            subprocess.run(["git", "clone", "-q", *clone, f"file://{full}", str(path)], check=True, capture_output=True)
            shutil.rmtree(full)

    return make


LOOP = b"\n\n\nclass DiceLoss(nn.Module):\n    def __init__(self, smooth=1.0):\n        while True:\n            pass\n"
CLEAR = ("Bring the starter", "Load the splits and count classes", "Write the network", "Train with early stopping")
FIGURES = {f"outputs/{name}.png": b"" for name in ("1_samples", "1_distribution", "2_curves_cnn")}
WEIGHTS = {"segmentation.pt": b""}
P2, H5 = "project2", "hw5"
CLASS = [
    Accident(P2, "01 zip of powershell", lambda p, f: as_zip(p, f, lambda n: f"work\\{n}"), "found in 'work/'"),
    Accident(P2, "02 tar", as_tar, "found in 'work/'"),
    Accident(P2, "03 zip in a folder", lambda p, f: (p.mkdir(), as_zip(p / "final", f)), "found in 'final.zip'"),
    Accident(P2, "04 mac", lambda p, f: as_zip(p, f | {f"__MACOSX/._{n}": b"x" for n in f}), ""),
    Accident(P2, "05 environment", changed(**{".venv/lib/segmentation_models__py": b"x"}), ""),
    Accident(P2, "ada_1_assignsubmission_file", loose(lambda n: f"ada_1_assignsubmission_file_{n}"), "was read as"),
    Accident(P2, "bob_22", loose(lambda n: f"bob_LATE_22_333_{n.replace('.py', '-1.py')}"), "was read as"),
    Accident(P2, "06 copy", renamed(lambda n: f"{n[:-3]} (1).py"), "was read as"),
    Accident(P2, "07 capitals", renamed(str.upper), "was read as"),
    Accident(P2, "08 nearly", only(segmentation_model__py=b"x = 1"), "did you mean segmentation_models.py"),
    Accident(P2, "09 notebook", only(work__ipynb=b"{}"), "is a notebook, which is not read"),
    Accident(P2, "10 seven zip", file(".7z", b"7z"), "hand in a zip"),
    Accident(P2, "11 cut off", file(".zip", b"PK\x03\x04"), "is damaged"),
    Accident(P2, "12 empty file", file(".zip", b""), "is empty"),
    Accident(P2, "13 empty folder", only(), "it holds no file"),
    Accident(P2, "14 report.pdf", file("", b"%PDF"), "it holds 14 report.pdf"),
    Accident(P2, "15 twice", lambda p, f: (write(p / "a", f), write(p / "b", f)), "in 'a/' and in 'b/'"),
    Accident(P2, "16 byte order mark", recoded(lambda t: t.encode("utf-8-sig")), "", by_reading=False),
    Accident(P2, "17 utf-16", recoded(lambda t: t.encode("utf-16")), "is in UTF-16 and was read as such"),
    Accident(P2, "18 latin-1", recoded(lambda t: f"{t}\nM = 'L\xe9a'\n".encode("latin-1", "replace")), "is in Latin-1"),
    Accident(P2, "19 conflict", changed((b"import torch\n", b"<<<<<<< HEAD\nimport torch\n")), "SyntaxError", False),
    Accident(P2, "20 loop", lambda p, f: write(p, {n: c + LOOP for n, c in f.items()}), "did not finish within", False),
    Accident(P2, "21 huge figure", changed(**{"classification__pt": b"0" * 60_000_001}), "was left out"),
    Accident(P2, "22 pointer", changed(segmentation__pt=b"version https://git-lfs.github.com/"), "of Git LFS", False),
    Accident(P2, "23 empty weights", changed(segmentation__pt=b""), "is empty", by_reading=False),
    Accident(P2, "24 at home", repository("starter", "work", uncommitted=True), "which differs from git commit"),
    Accident(P2, "31 zip in zip", lambda p, f: packed(p, {"final/work.zip": zip_of(f)}), "found in 'final/work.zip'"),
    Accident(P2, "32 password", lambda p, f: file(".zip", with_password(zip_of(f)))(p, f), "without a password"),
    Accident(P2, "33 onedrive", only(project2__zip__url=b"[InternetShortcut]"), "is only a link"),
    Accident(P2, "34 rar", file(".rar", b"Rar!\x1a\x07\x01\0"), "hand in a zip"),
    Accident(P2, "35 copy of", renamed(lambda n: f"Copy of {n}"), "was read as"),
    Accident(P2, "36 text", renamed(lambda n: f"{n}.txt"), "was read as"),
    Accident(P2, "37 whole paths", lambda p, f: as_zip(p, f, lambda n: f"/home/ada/p2/{n}"), "in 'home/ada/p2/'"),
    Accident(P2, "38 last year", lambda p, f: (write(p / "2026", f | WEIGHTS), write(p / "now", f)), "and in 'now/'"),
    Accident(P2, "39 \N{GRINNING FACE}", lambda p, f: as_zip(p, f, lambda n: f"\N{FIRE}/{n}"), "were found in"),
    Accident(P2, "40 link inside", lambda p, f: (write(p, f), (p / "up").symlink_to("..")), ""),
    Accident(P2, "41 link", lambda p, _files: p.symlink_to(".."), "it is a link"),
    Accident(P2, "42 zone", lambda p, f: write(p, f | {f"{n}:Zone.Identifier": b"[ZoneTransfer]" for n in f}), ""),
    Accident(P2, "43 windows", recoded(lambda t: t.replace("\n", "\r\n").encode()), "", by_reading=False),
    Accident(P2, "44 tabs", changed((b"        ", b"\t")), "Error", by_reading=False),
    Accident(P2, "45 word.docx", lambda p, _f: packed(p, {"word/document.xml": b""}, ""), "holds 45 word.docx"),
    Accident(P2, "eve_44", lambda p, _f: packed(p, {"x/data.pkl": b""}, "_55_segmentation.pt"), "was read as"),
    Accident(H5, "25 clear history", repository(*CLEAR), ""),
    Accident(H5, "26 no repository", write, "history not available"),
    Accident(H5, "27 shallow", repository(*CLEAR, clone=("--depth=1",)), "shallow clone"),
    Accident(H5, "28 bare", repository(*CLEAR, clone=("--bare",)), "git commit"),
    Accident(H5, "29 at the top", lambda p, f: write(p, flat(f)), "was read as"),
    Accident(H5, "46 figures apart", lambda p, f: write(p, flat(f) | FIGURES), "'hw5_dl.py' was read as"),
    Accident(H5, "47 clone in a folder", lambda p, f: (p.mkdir(), repository(*CLEAR)(p / "mine", f)), "in 'mine/'"),
    Accident(H5, "48 clone in a zip", lambda p, f: packed(p, f | {".git/HEAD": b"ref"}), "in an archive is not read"),
    Accident(H5, "30 nothing committed", lambda p, f: (p.mkdir(), git(p, "init", "-q"), write(p, f)), "history"),
]  # fmt: skip


def make_class(folder: Path) -> None:
    """Write both classes: FOLDER/project2, FOLDER/hw5. UserError if something lies there."""
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder")
    for name in (P2, H5):
        (folder / name).mkdir(parents=True)
    for accident in CLASS:
        accident.make(folder / accident.assignment / accident.name, right_files(accident.assignment))


def told_by_reading(folder: Path, name: str) -> dict[str, str]:
    """Name of the row -> what reading each submission of a class tells."""
    assignment = assignments.load(name)
    found, _ = find_entries(folder, folder.with_name(f"{name}-grades"))
    told = {}
    for entry in grade_class.read_entries(found, assignment, "nothing is graded"):
        text = entry.problem
        if not text:
            submission = read_submission(entry.path, assignment.files)
            unknown = f"history not available: {submission.no_log}" if submission.log is None else ""
            text = "; ".join([*submission.notes, *([unknown] if assignment.history and unknown else [])])
        told[entry.name] = text
    return told


def told_by_grading(folder: Path, name: str, jobs: int) -> dict[str, str]:
    """Name of the row -> its score and everything that explains it, after `staff.grade_class`."""
    out = folder.with_name(f"{name}-grades")
    words = [sys.executable, "-m", "staff.grade_class", str(folder), "--assignment", name, "--jobs", str(jobs)]
    subprocess.run(words, cwd=ROOT, check=False)
    with open(out / "grades.csv", newline="", encoding="utf-8") as table:
        rows = {row["name"].removeprefix("'"): row for row in csv.DictReader(table)}
    told = told_by_reading(folder, name)
    found = [read_json(path) for path in (out / "jobs").glob("*/results.json")]
    by_digest = {results["submission"]["sha256"]: results for results in found if isinstance(results, dict)}
    assignment = assignments.load(name)
    for entry, path in find_entries(folder, out)[0]:
        row = rows[entry]
        messages = [row["problem"], row["for_a_person"]]
        if row["score"]:
            results = by_digest[read_submission(path, assignment.files).digest()]
            checks = [check for todo in results["todos"] for check in todo["checks"] if check["status"] == "failed"]
            messages += dict.fromkeys(shown_message(check).splitlines()[0] for check in checks if check["message"])
        score = f"score {row['score']}" if row["score"] else "no score"
        told[entry] = "; ".join(text for text in [score, told[entry], *messages] if text)
    return told


def name_of_row(accident: Accident) -> str:
    """What the accident's row in grades.csv is called."""
    return accident.name.removesuffix("_assignsubmission_file")


def main() -> int:
    """Make the class, grade or read it, and compare what each row tells with what it must tell."""
    parser = argparse.ArgumentParser(prog="python -m staff.accidents", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the class is made; must not exist or be empty")
    parser.add_argument("--quick", action="store_true", help="read only, grade nothing")
    parser.add_argument("--jobs", type=int, default=2, help="submissions graded at the same time (default 2)")
    arguments = parser.parse_args()
    make_class(arguments.folder)
    unexplained = 0
    for name in dict.fromkeys(accident.assignment for accident in CLASS):
        folder = arguments.folder.resolve() / name
        told = told_by_reading(folder, name) if arguments.quick else told_by_grading(folder, name, arguments.jobs)
        for accident in (one for one in CLASS if one.assignment == name):
            text = told.get(name_of_row(accident))
            expected = accident.by_reading or not arguments.quick
            missing = text is None or (expected and accident.says not in text)
            unexplained += missing
            mark = "MISSING" if missing else "ok"
            shown = "(no row)" if text is None else text or "read as it is"
            print(f"{accident.name:<28} {mark:<8} {printable(shown, 300)}")
    quick = " (quick: nothing was graded)" if arguments.quick else ""
    print(f"{len(CLASS)} accidents, {unexplained} without the explanation that they need{quick}")
    return 1 if unexplained else 0
