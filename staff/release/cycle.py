"""Make the release of a term: starters, Classroom templates, Gradescope packages, the course site and their proofs.

    python -m staff.release --term "Fall 2027"

The folder is written whole or not at all: nothing is released if a proof fails. RELEASE.md in it says what was made
from which commit. With the same sources and no release or due date in between, a second run changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from staff.grader import facts
from staff.release import site
from staff.release.check_starter import all_proofs
from staff.release.make_starter import starter
from staff.release.package import pack
from staff.release.starter import recipe as recipes
from staff.release.starter import release
from staff.release.starter.build import Build, commit_of
from staff.release.starter.recipe import Recipe, git
from toolkit.cli import OneLineParser
from toolkit.errors import UserError

PAGE = "RELEASE.md"
COURSE = recipes.FOLDER / "course.toml"


def build_parser() -> OneLineParser:
    """The flags."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--term", required=True, help="as course.toml has it, so that no earlier term is released again"
    )
    parser.add_argument("--out", type=Path, default=Path("build/release"), help="folder to make or to bring up to date")
    return parser


def main() -> int:
    """Parse, see whether anything changed, make, prove, write; 1 if a proof fails."""
    args = build_parser().parse_args()
    started = time.monotonic()
    course = recipes.read_course(COURSE)
    check_term(args.term, course["term"])
    release.check_target(args.out)
    chosen = recipes.of_this_term()
    now = site.read_time(None, facts.zone(course.get("timezone", "")))
    made_from = {"term": args.term, "sources": fingerprint(recipes.ROOT)}
    made_from["states"] = {one.name: site.assignment_facts(one, now)["state"] for one in chosen}
    before = earlier(args.out, made_from)
    if before and before["states"] == made_from["states"]:
        print(f"{args.out}: nothing changed since it was made from commit {before['commit']}; nothing was written")
        return 0
    starters = [(one, starter(one)) for one in chosen]
    pages = site.render(site.sources(starters, now))
    files, failed = dict[str, bytes](), 0
    for one, made in starters:  # all of them before the proofs, which take minutes
        files |= make(one, made)
    for one in chosen:
        known = args.out / proofs_of(one.name)
        lines = known.read_text(encoding="utf-8").splitlines() if before else prove(one, files)
        files[proofs_of(one.name)] = "\n".join([*lines, ""]).encode()
        failed += sum(line.startswith("FAIL") for line in lines)
    if failed:
        print(f"{failed} proofs failed: nothing was released, and {args.out} is as it was")
        return 1
    files |= {f"site/{name}": content for name, content in pages.items()}
    files[PAGE] = page(course, starters, files).encode()
    files[release.RELEASE_FILE] = release.manifest(files, "all", commit_of(chosen[0]), **made_from)
    if kept := release.write_release(args.out, files):
        print(f"note: the older release had changes in it; it is kept as {kept}")
    print(f"{args.out}: {len(files)} files in {time.monotonic() - started:.0f} s; {PAGE} says what is what")
    return 0


def check_term(asked: str, course: str) -> None:
    """UserError unless the settings are those of the term that is asked for."""
    if asked != course:
        settings = COURSE.relative_to(recipes.ROOT)
        raise UserError(
            f"--term is {asked!r}, but {settings} is for {course!r}: change term and dates there, or give that"
        )


def fingerprint(root: Path) -> str:
    """What everything is made from: the commit, and what was changed since; "" without git, which no other equals."""
    commit, changed = git(root, "rev-parse", "HEAD"), git(root, "diff", "HEAD", "--binary")
    if commit is None or changed is None:
        return ""
    unknown = (git(root, "ls-files", "-z", "--others", "--exclude-standard") or "").split("\0")
    new = [f"{name} {release.sha256((root / name).read_bytes())}" for name in sorted(filter(None, unknown))]
    return release.sha256("\n".join([commit, changed, *new]).encode())


def earlier(folder: Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the release in `folder` if it was made from the same sources and every file of it is whole."""
    record = release.read_manifest(folder)
    if not record or not made_from["sources"] or any(record.get(key) != made_from[key] for key in ("term", "sources")):
        return None
    found = {name: release.sha256(content) for name, content in release.read_folder(folder).items()}
    found.pop(release.RELEASE_FILE)
    return record if found == record["files"] else None


def proofs_of(name: str) -> str:
    """Where the proofs of an assignment stand."""
    return f"staff_only/{name}-proofs.txt"


def make(recipe: Recipe, made: Build) -> dict[str, bytes]:
    """{path: bytes} of everything that is made for one assignment."""
    name = recipe.name
    files = {f"starters/{name}/{path}": content for path, content in made.files.items()}
    files[f"starters/{name}.zip"] = release.archive(made.files, name)
    template = starter(recipe, classroom=True).files
    files |= {f"classroom/{name}/{path}": content for path, content in template.items()}
    files[f"staff_only/{name}-gradescope.zip"] = pack(name)[0]
    return files


def prove(recipe: Recipe, parts: Mapping[str, bytes]) -> list[str]:
    """Lines of all proofs of a starter, and of those of its Classroom template that only read; each is printed."""
    lines = []
    for folder, static in ((f"starters/{recipe.name}", False), (f"classroom/{recipe.name}", True)):
        found = {path.removeprefix(f"{folder}/"): data for path, data in parts.items() if path.startswith(f"{folder}/")}
        record = json.loads(found[release.RELEASE_FILE])
        lines.append(f"{folder}:")
        print(lines[-1], flush=True)
        for proof in all_proofs(recipe, record, found, static=static):
            print(proof, flush=True)
            lines += str(proof).splitlines()
    return lines


def page(course: Mapping[str, Any], starters: Sequence[tuple[Recipe, Build]], files: Mapping[str, bytes]) -> str:
    """RELEASE.md: what was made, from which commit, for whom."""
    commit = starters[0][1].commit
    lines = [
        f"# {course['course']}, {course['term']}",
        "",
        f"Made by `python -m staff.release` from commit `{commit}`.",
    ]
    if not commit.isalnum() or commit == "unknown":
        lines += ["", "**No commit holds these sources**: commit, and run it again before students get anything."]
    lines += ["", "| for | file | MB | SHA-256 |", "|---|---|---|---|"]
    for one, _made in starters:
        for whom, path in (
            ("students", f"starters/{one.name}.zip"),
            ("staff only", f"staff_only/{one.name}-gradescope.zip"),
        ):
            lines.append(f"| {whom} | `{path}` | {len(files[path]) / 1e6:.1f} | `{release.sha256(files[path])}` |")
    lines += ["", f"`{release.RELEASE_FILE}` has the SHA-256 of every single file.", "", "## What to do with it", ""]
    lines += [
        "- `site/`: upload it; `python -m staff.site` builds it again when an assignment's release date has passed.",
        "- `starters/NAME.zip`: what students get; `starters/NAME/` is the same, unpacked. The site has it, too.",
        "- `classroom/NAME/`: push it as a template repository of GitHub Classroom.",
        "- `staff_only/NAME-gradescope.zip`: upload it as the autograder; it holds the graded tests.",
    ]
    for one, made in starters:
        proofs = files[proofs_of(one.name)].decode().splitlines()
        lines += ["", f"## {one.title}", "", *(f"- note: {note}" for note in made.notes)]
        lines += [f"- {line}" for line in proofs]
    return "\n".join(lines) + "\n"
