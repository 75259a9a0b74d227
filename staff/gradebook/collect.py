"""Put what a course's site gives into TERM/ASSIGNMENT, one folder a student, and note when it was handed in.

Moodle: an unpacked "Download all submissions", best with the grading worksheet next to it, which has the times.
Canvas: an unpacked "Download submissions". Gradescope: an unpacked "Export submissions", with its
submission_metadata.yml. GitHub Classroom: clones (`gh classroom clone student-repos`), best with classroom_roster.csv.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import yaml

from staff.gradebook.handed_in import NOTES, SITE_NAMES, copy, student_of
from staff.gradebook.roster import Student
from staff.gradebook.term import Term, read_notes
from staff.grader import assignment as assignments
from staff.grader.packing import JUNK, printable
from toolkit.cli import OneLineParser
from toolkit.errors import UserError
from toolkit.runs import write_json

SITES = ("moodle", "canvas", "gradescope", "classroom")
METADATA, CLASSROOM = "submission_metadata.yml", "classroom_roster.csv"
MOODLE_TIMES = ("%A, %d %B %Y, %I:%M %p", "%A, %d %B %Y, %H:%M", "%d %B %Y, %I:%M %p", "%Y-%m-%d %H:%M:%S")


@dataclass
class HandIn:
    """What one student handed in.

    name: as the site calls it.
    paths: files and folders; a single folder is taken as it is.
    students: whose it is (a team's repository belongs to each member); none: unknown.
    when, when_from: time and which record has it.
    site_id: Moodle's participant number, "" of a team's work; numbers: student's id -> participant number.
    marked_late: whether the site's name of it says so.
    """

    name: str
    paths: list[Path]
    students: list[Student] = field(default_factory=list)
    when: datetime | None = None
    when_from: str = ""
    site_id: str = ""
    numbers: dict[str, str] = field(default_factory=dict)
    marked_late: bool = False


def main(argv: list[str]) -> None:
    """Collect."""
    parser = OneLineParser(prog="python -m staff.gradebook collect", description=__doc__.splitlines()[0])
    parser.add_argument("term", type=Path, help="folder with roster.csv")
    parser.add_argument("site", choices=SITES, help="where the download is from")
    parser.add_argument("folder", type=Path, help="the unpacked download")
    parser.add_argument("--assignment", default="project2", choices=assignments.names())
    arguments = parser.parse_args(argv)
    if not arguments.folder.is_dir():
        raise UserError(f"folder is {str(arguments.folder)!r}, which is no folder (unpack the download first)")
    print(collect(Term(arguments.term), arguments.site, arguments.folder, arguments.assignment))


def collect(term: Term, site: str, folder: Path, name: str) -> str:
    """Copy the hand-ins, note their times, and return the lines for the terminal."""
    found = list({"gradescope": _gradescope, "classroom": _classroom}.get(site, _loose)(term, folder))
    if not found:
        raise UserError(f"{folder} holds no hand-in as {site} names them")
    if site == "moodle":
        _add_worksheet(term, folder, name, found)
    notes_path = term.path / f"{name}-handed_in.json"
    before = read_notes(notes_path)
    students, problems = before["students"], []
    for one in found:
        for student in one.students:
            try:
                _copy(one.paths, term.path / name / student.id)
            except OSError as error:  # a file that may not be read stops nobody else
                problems.append(f"not copied: {printable(one.name)}: {printable(str(error))}")
                continue
            students[student.id] = {
                "from": site,
                "name": printable(one.name),
                "when": one.when.isoformat() if one.when else None,
                "when_from": one.when_from,
                "site_id": one.numbers.get(student.id, one.site_id) if site == "moodle" else "",
                "marked_late": one.marked_late,
            }
    unknown = [printable(one.name) for one in found if not one.students]
    write_json(notes_path, {"students": students, "unknown": before["unknown"] | {site: unknown}})
    there = term.lying(name)
    missing = [student.id for student in term.roster.students if student.id not in there]
    timed = sum(bool(noted["when"]) for noted in students.values())
    lines = [f"{name}: {len(there)} of {len(term.roster.students)} students, {timed} with the site's time"]
    lines += [f"unknown, not copied: {one}: no (or no single) student in roster.csv" for one in unknown]
    lines += problems
    lines += [f"handed in nothing: {', '.join(missing)}"] if missing else []
    return "\n".join([*lines, f"next: python -m staff.grade_class {term.path / name} --assignment {name}"])


def _loose(term: Term, folder: Path) -> Iterator[HandIn]:
    """Moodle's and Canvas's: names that begin with whose they are."""
    together: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        is_note = not student_of(path.name) and path.name.lower().endswith(NOTES)
        if is_note or path.name.startswith(".") or JUNK.fullmatch(path.name):
            continue
        together.setdefault(student_of(path.name) or path.name, []).append(path)
    for who, paths in together.items():
        owners, number = term.roster.owners(who), who.rpartition("_")[2]
        late = any("_LATE_" in path.name and SITE_NAMES[1].fullmatch(path.name) for path in paths)
        work = [path for path in paths if "_assignsubmission_onlinetext" not in path.name] or paths
        yield HandIn(
            who, work, owners, site_id=number if number.isdigit() and len(owners) < 2 else "", marked_late=late
        )


def _gradescope(term: Term, folder: Path) -> Iterator[HandIn]:
    path = folder / METADATA
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{path} is missing; it comes with Gradescope's 'Export Submissions'") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    for name, entry in (table if isinstance(table, dict) else {}).items():
        where = folder / str(name)
        if not isinstance(entry, dict) or where.parent != folder or not where.exists():
            continue
        students = []
        for person in entry.get(":submitters") or []:
            asked = [str(person.get(key) or "") for key in (":sid", ":email", ":name")]
            student = next((found for text in asked if text and (found := term.roster.find(text))), None)
            students += [student] if student else []
        when = entry.get(":created_at")
        when = when if isinstance(when, datetime) else None
        when = when.replace(tzinfo=timezone.utc) if when and not when.tzinfo else when
        yield HandIn(str(name), [where], students, when, "Gradescope" if when else "")


def _classroom(term: Term, folder: Path) -> Iterator[HandIn]:
    accounts = _accounts(next((p for p in (folder / CLASSROOM, folder.parent / CLASSROOM) if p.is_file()), None))
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            words = path.name.split("-")
            ends = ["-".join(words[i:]) for i in range(len(words))]  # PREFIX-ACCOUNT, and both may hold "-"
            texts = [accounts.get(end.casefold(), end) for end in ends]
            student = next((found for text in texts if (found := term.roster.find(text))), None)
            members = next((team for end in ends if (team := term.roster.team(end))), [])
            yield HandIn(path.name, [path], [student] if student else members)


def _accounts(path: Path | None) -> dict[str, str]:
    """GitHub account -> identifier, from classroom_roster.csv."""
    if path is None:
        return {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"identifier", "github_username"} <= set(rows[0]):
        raise UserError(f"{path} has no columns identifier and github_username")
    return {row["github_username"].casefold(): row["identifier"] for row in rows if row["github_username"]}


def _add_worksheet(term: Term, folder: Path, name: str, found: list[HandIn]) -> None:
    """Whose participant number is whose, and times, from a grading worksheet; it is kept to be filled in later."""
    by_number = {one.site_id: one for one in found if one.site_id}
    for path in sorted(folder.glob("*.csv")):
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or not {"Identifier", "Grade"} <= set(rows[0]):
            continue
        shutil.copy2(path, term.path / f"{name}-worksheet.csv")
        for row in rows:
            number, student = row["Identifier"].rpartition(" ")[2], term.roster.find(row.get("Email address") or "")
            one = by_number.get(number) or next((o for o in found if student in o.students and not o.site_id), None)
            if one is None:
                continue
            if student and one.site_id:
                one.students = [student]
            elif student:  # a team's work
                one.numbers[student.id] = number
            one.when = _moodle_time(row.get("Last modified (submission)") or "", term)
            one.when_from = "Moodle" if one.when else ""


def _moodle_time(text: str, term: Term) -> datetime | None:
    for form in MOODLE_TIMES:
        try:
            return term.of_course(datetime.strptime(text.strip(), form))
        except ValueError:
            continue
    return None


def _copy(paths: list[Path], target: Path) -> None:
    """Copy what a student handed in, with its times, over what was there. Links stay links and are not followed."""
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    if len(paths) == 1 and paths[0].is_dir() and not paths[0].is_symlink():
        new.parent.mkdir(parents=True, exist_ok=True)
        copy(paths[0], new)
    else:
        new.mkdir(parents=True)
        for path in paths:
            copy(path, new / path.name)
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
