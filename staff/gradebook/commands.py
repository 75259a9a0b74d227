"""The commands sum, publish, decide and history of `python -m staff.gradebook`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from staff.gradebook import audit, decisions, summing
from staff.gradebook.decisions import KINDS, Decision
from staff.gradebook.term import Term
from toolkit.cli import OneLineParser
from toolkit.errors import UserError


def _parser(command: str, what: str) -> OneLineParser:
    parser = OneLineParser(prog=f"python -m staff.gradebook {command}", description=what)
    parser.add_argument("term", type=Path, help="folder with roster.csv and the hand-ins")
    return parser


def sum_main(argv: list[str]) -> None:
    """Sum up: TERM/draft."""
    print(summing.sum_up(_parser("sum", "Sum up results, decisions and late days: TERM/draft.").parse_args(argv).term))


def publish_main(argv: list[str]) -> None:
    """Publish: TERM/published."""
    print(summing.publish(_parser("publish", "Write what students get: TERM/published.").parse_args(argv).term))


def decide_main(argv: list[str]) -> None:
    """Add a decision."""
    parser = _parser("decide", "Add one decision to TERM/decisions.toml.")
    parser.add_argument("kind", choices=KINDS, help="what is decided")
    parser.add_argument("--student", default="", help="id in roster.csv (or e-mail, or name)")
    parser.add_argument("--team", default="", help="for all members of a team")
    parser.add_argument("--assignment", default="project2", help="name of a folder in staff/assignments")
    for name, text in (("todo", "a TODO, as 1.4"), ("check", "a check, as FILE::TEST"), ("item", "a rubric's item")):
        parser.add_argument(f"--{name}", default="", help=f"{text}; neither: the sum")
    parser.add_argument("--points", type=float, help="of an override or a rubric's item")
    parser.add_argument("--days", type=float, help="of an extension, or that count as late")
    parser.add_argument("--reason", default="", help="why; the student reads it")
    parser.add_argument("--comment", default="", help="for the student; of a regrade: what the student asks")
    parser.add_argument("--who", default=audit.user(), help="who decides (default: who runs this)")
    parser.add_argument("--withdrawn", action="store_true", help="take back the earlier decision about the same thing")
    given = vars(parser.parse_args(argv))
    term = Term(given.pop("term"))
    if given["student"]:
        student = term.roster.find(given["student"])
        if student is None:
            raise UserError(f"student is {given['student']!r}, who is not in roster.csv (or whose name is there twice)")
        given["student"] = student.id
    decision = Decision(**given)
    term.check_decision(decision, "the decision")
    written = decisions.append(term.decisions_path, decision)
    audit.note_decisions(term.audit_path, decisions.read(term.decisions_path))
    whose, part = written.student or written.team, written.part or "the whole"
    print(f"{written.kind} of {part} for {whose}: {term.decisions_path}")


def history_main(argv: list[str]) -> None:
    """What happened to a student's grades."""
    parser = _parser("history", "What was graded, decided and published for a student, in order.")
    parser.add_argument("name", help="id in roster.csv (or e-mail, or name)")
    arguments = parser.parse_args(argv)
    term = summing.note_and_compute(arguments.term).term
    student = term.roster.find(arguments.name)
    if student is None:
        raise UserError(f"name is {arguments.name!r}, who is not in roster.csv (or whose name is there twice)")
    entries, faults = audit.read(term.audit_path)
    for fault in faults:
        print(f"note: {fault}")
    for entry in entries:
        decision = entry.get("decision", {})
        ours = student.id in (entry.get("student"), decision.get("student"))
        if ours or (student.team and decision.get("team") == student.team):
            print(line_of(entry))


def line_of(entry: dict) -> str:
    """An entry of the log in one line."""
    when = datetime.fromisoformat(entry["time"]).strftime("%Y-%m-%d %H:%M:%SZ")
    head = f"{when}  {entry['event']:<9} by {entry['by']}: "
    if entry["event"] == "graded":
        part = f" ({entry['part']})" if entry.get("part") else ""
        commit = f", commit {entry['commit'][:12]}" if entry.get("commit") else ""
        return (
            f"{head}{entry['assignment']} {entry['points']:g} + {entry['extra']:g}{part}; files {entry['sha256'][:12]}"
            f"{commit}; grader {entry['grader'][:12]}, seed {entry['seed']}, graded {entry['graded_at']}"
        )
    if entry["event"] == "published":
        return f"{head}{entry['assignment']} {entry['before']} -> {entry['total']}"
    told = {
        key: value for key, value in entry["decision"].items() if key not in ("student", "kind", "assignment", "who")
    }
    words = ", ".join(f"{key} {value}" for key, value in told.items())
    head = head.replace(f"by {entry['by']}", f"by {entry['decision']['who']}")
    return f"{head}{entry['decision']['assignment']} {entry['decision']['kind']}: {words}"
