"""Watermarks: which student's copy did this file come from?

At many small places ("sites") a graded file can be written in two or more ways that mean the same: a word in a comment
or docstring, an arrow, a blank line after a docstring. A secret and the student's ID choose one way for each site; the
syntax tree, docstrings aside, is the same in every copy. A site is found by the name of the function around it, so
edits elsewhere do not disturb it, and a site that was edited away is simply not counted.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import UserError

# Each row: ways to write the same; the first is how the sources have it. No way may be part of another way's match.
WORDINGS: tuple[tuple[str, ...], ...] = (
    ("# Hint: ", "# A hint: ", "# Tip: ", "# Hint, "),
    (" → ", " -> "),
    ("Raises ValueError for any other name.", "Any other name raises ValueError."),
    ("Number of trainable parameters.", "The number of trainable parameters.", "How many parameters are trainable."),
    ("Return a new model called", "A new model called"),
    (" Provided.", " (Provided.)", " This is provided."),
    ("stop after so many batches", "stop after this many batches"),
    ("called without arguments after each optimizer step", "called without arguments after every optimizer step"),
    ("that were seen", "that it saw"),
    ("nothing in the model changes", "the model stays as it is"),
    ("with one value an epoch", "with one value per epoch"),
    ("Losses are means of the criterion in nats", "Each loss is the mean of the criterion in nats"),
    ("optimizer: Adam unless given", "optimizer: Adam if not given"),
    ("criterion: cross-entropy unless given", "criterion: cross-entropy if not given"),
    ("best_extra: facts to keep in best.pt", "best_extra: facts kept in best.pt"),
    ("as older loaders give them", "as some older loaders give them"),
    ("IoUs are fractions in [0, 1]", "Each IoU is a fraction in [0, 1]"),
    ("averaged over the images of a batch", "as the mean over the images of a batch"),
)
BLANK_LINE = -1  # the kind of the sites after a function's docstring; the others are rows of WORDINGS
DEFINITION = re.compile(r"^(?P<indent> *)(?P<kind>class|(?:async )?def) (?P<name>\w+)")
OPENS_BLOCK = re.compile(r" *(?:class|def|async def|@)")  # the formatter wants a blank line before these
KEPT = 0.95  # assumed share of the sites that a student leaves as they were; the rest turn into anything


@dataclass(frozen=True)
class Site:
    """One place that can be written in `ways` ways, and how it is written in the file at hand."""

    key: str
    kind: int
    line: int  # counted from 0; of a blank-line site: the docstring's last line
    column: int
    ways: int
    found: int


@dataclass(frozen=True)
class Mark:
    """A student's watermark."""

    secret: bytes
    student: str

    def way(self, file: str, site: Site) -> int:
        """Which way this student's copy has at a site of `file`."""
        message = "\0".join((self.student, file, site.key)).encode()
        return int.from_bytes(hmac.digest(self.secret, message, hashlib.sha256)[:8], "big") % site.ways

    def apply(self, file: str, text: str) -> str:
        """The text of this student's copy."""
        return rewrite(text, lambda site: self.way(file, site))


def canonical(text: str) -> str:
    """The text without any watermark: each site as the sources have it (no blank line, the first wording)."""
    return rewrite(text, lambda site: 0)


def rewrite(text: str, choose: Callable[[Site], int]) -> str:
    """`text` with each site written in the way that choose(site) names."""
    lines = text.split("\n")
    for site in sorted(find_sites(text), key=lambda site: (site.line, site.column), reverse=True):
        way = choose(site)
        if site.kind != BLANK_LINE:
            line, old, new = lines[site.line], WORDINGS[site.kind][site.found], WORDINGS[site.kind][way]
            lines[site.line] = line[: site.column] + new + line[site.column + len(old) :]
        elif way != site.found:
            lines[site.line + 1 : site.line + 1 + site.found] = [""] * way
    return "\n".join(lines)


def find_sites(text: str) -> list[Site]:
    """All sites of a file, by text alone: a student's file need not parse."""
    sites: list[Site] = []
    counts: Counter[str] = Counter()
    lines = text.split("\n")
    owner = around = ""
    awaits_docstring = inside = False
    for number, line in enumerate(lines):
        stripped = line.strip()
        if match := DEFINITION.match(line):
            owner = match["name"] if not match["indent"] else owner
            around = f"{owner}.{match['name']}"
            awaits_docstring = match["kind"] != "class"
        starts = stripped.startswith('"""')
        ends = stripped.endswith('"""') and (inside or stripped.count('"""') == 2)
        if starts or inside or "#" in line:
            for kind, column, found in _wordings_in(line, in_text=starts or inside):
                key = f"{around}/{WORDINGS[kind][0]}"
                sites.append(Site(f"{key}/{counts[key]}", kind, number, column, len(WORDINGS[kind]), found))
                counts[key] += 1
        if ends and awaits_docstring:
            awaits_docstring = False
            if (blanks := _blank_lines_before_code(lines, number)) is not None:
                sites.append(Site(f"{around}/blank", BLANK_LINE, number, 0, 2, blanks))
        inside = (inside or starts) and not ends
    return sites


def _blank_lines_before_code(lines: Sequence[str], number: int) -> int | None:
    """0 or 1 blank lines between a docstring's last line and the code of its function; None if it is no site."""
    blanks = int(number + 1 < len(lines) and not lines[number + 1].strip())
    after = lines[number + 1 + blanks] if number + 1 + blanks < len(lines) else ""
    indent = len(lines[number]) - len(lines[number].lstrip())
    belongs = bool(after.strip()) and len(after) - len(after.lstrip()) >= indent
    return None if not belongs or OPENS_BLOCK.match(after) else blanks


def _wordings_in(line: str, in_text: bool) -> Iterable[tuple[int, int, int]]:
    """(row of WORDINGS, column, way) of each wording in a line, from its comment on or, in a docstring, anywhere."""
    start = 0 if in_text else line.index("#")
    for kind, ways in enumerate(WORDINGS):
        pattern = "|".join(re.escape(way) for way in sorted(ways, key=len, reverse=True))
        for match in re.finditer(pattern, line[start:]):
            yield kind, start + match.start(), ways.index(match[0])


@dataclass(frozen=True)
class Guess:
    """How well a student's mark fits: posterior probability, and sites that agree of those that were found."""

    student: str
    probability: float
    agreeing: int
    sites: int


UNMARKED = "(no watermark)"
NOBODY = "(nobody on the roster)"


def identify(files: dict[str, str], secret: bytes, roster: Sequence[str]) -> list[Guess]:
    """Who on the roster the files {name: text} may have come from, best first, with equal odds for all beforehand.

    Two more candidates compete: a copy without watermark, and somebody else, whose sites agree by chance only.
    """
    sites = [(name, site) for name, text in files.items() for site in find_sites(text)]
    if not sites:
        raise UserError(f"no site of a watermark is left in {', '.join(files)}")
    marks = {student: Mark(secret, student) for student in dict.fromkeys(roster)}
    agreeing = {
        student: [mark.way(name, site) == site.found for name, site in sites] for student, mark in marks.items()
    }
    agreeing[UNMARKED] = [site.found == 0 for _name, site in sites]
    logs = {student: _log_likelihood(sites, fits) for student, fits in agreeing.items()}
    logs[NOBODY] = -sum(math.log(site.ways) for _name, site in sites)
    agreeing[NOBODY] = []
    best = max(logs.values())
    total = sum(math.exp(value - best) for value in logs.values())
    guesses = [
        Guess(student, math.exp(value - best) / total, sum(agreeing[student]), len(sites))
        for student, value in logs.items()
    ]
    return sorted(guesses, key=lambda guess: (-guess.probability, guess.student))


def _log_likelihood(sites: Sequence[tuple[str, Site]], fits: Sequence[bool]) -> float:
    """Log probability of what was found if the mark is right: kept with KEPT, else any way at random."""
    return sum(math.log(KEPT * fit + (1 - KEPT) / site.ways) for (_name, site), fit in zip(sites, fits, strict=True))


def read_secret(path: Path) -> bytes:
    """The secret of the course; UserError if it is missing or too short to be one."""
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise UserError(
            f"--secret {path}: {error.strerror}; make one, outside of the repository, with: "
            f'python -c "import secrets; print(secrets.token_hex(32))" > {path}'
        ) from None
    if len(secret) < 16:
        raise UserError(f"--secret {path} holds {len(secret)} bytes; 16 or more are needed")
    return secret
