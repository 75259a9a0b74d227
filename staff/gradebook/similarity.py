"""What part of their code two submissions share, whoever renamed and moved what.

Winnowing (Schleimer, Wilkerson, Aiken: "Winnowing: local algorithms for document fingerprinting", SIGMOD 2003) over
tokens without names, comments, layout and constants: every GRAM tokens in a row have a hash, and of each WINDOW hashes
in a row the least is kept as a fingerprint, so that any GRAM + WINDOW - 1 = 27 tokens in common are found wherever
they stand. Code that is given or common (the starter's, and what several independent solutions have) does not count.
A share is no verdict: a person judges.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product

from staff.gradebook.tokens import code_tokens

GRAM, WINDOW = 20, 8
# Measured by `python -m staff.quality.similarity_rates`; staff/README.md has the table.
WHOLE, ONE_FILE = 0.3, 0.5
LEAST_PRINTS = 20  # fingerprints of a file (about 90 tokens) below which its share says nothing
COMMON = 4  # that many independent solutions with the same code make it common


@dataclass(frozen=True)
class Work:
    """The code of one submission.

    name: whose it is.
    origin: "class", "earlier" or "public".
    sources: file name -> text.
    grams: file name -> (hash, first line, last line) of every GRAM tokens in a row, in order.
    prints: file name -> fingerprints that count.
    """

    name: str
    origin: str
    sources: Mapping[str, str] = field(repr=False)
    grams: Mapping[str, list[tuple[int, int, int]]] = field(repr=False)
    prints: Mapping[str, frozenset[int]] = field(repr=False)

    @property
    def all_prints(self) -> frozenset[int]:
        """The fingerprints of all files together."""
        return frozenset().union(*self.prints.values())


@dataclass(frozen=True)
class Pair:
    """Two submissions and what part of their fingerprints they share.

    whole: shared fingerprints / those of the smaller submission, over all files, from 0 to 1.
    files: file name -> the same for the file of that name, where both have LEAST_PRINTS.
    """

    first: Work
    second: Work
    whole: float
    files: dict[str, float]

    @property
    def is_suspect(self) -> bool:
        """Whether a person should look at it."""
        return self.whole >= WHOLE or any(share >= ONE_FILE for share in self.files.values())

    @property
    def rank(self) -> float:
        """How far above the nearer threshold, for sorting."""
        return max(self.whole / WHOLE, max(self.files.values(), default=0.0) / ONE_FILE)


def grams_of(source: str) -> list[tuple[int, int, int]]:
    """(hash, first line, last line) of every GRAM tokens in a row."""
    tokens = code_tokens(source)
    texts = [token.text for token in tokens]
    found = []
    for start in range(len(tokens) - GRAM + 1):
        text = " ".join(texts[start : start + GRAM]).encode("utf-8", "replace")
        number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
        found.append((number, tokens[start].line, tokens[start + GRAM - 1].line))
    return found


def winnow(hashes: Sequence[int]) -> frozenset[int]:
    """The least hash of each WINDOW in a row, in linear time; of fewer than WINDOW hashes the least."""
    kept, waiting = set(), deque()
    for place, number in enumerate(hashes):
        while waiting and waiting[-1][1] >= number:
            waiting.pop()
        waiting.append((place, number))
        if waiting[0][0] <= place - WINDOW:
            waiting.popleft()
        if place >= min(WINDOW, len(hashes)) - 1:
            kept.add(waiting[0][1])
    return frozenset(kept)


def make_work(name: str, origin: str, sources: Mapping[str, str]) -> Work:
    """Fingerprint a submission."""
    grams = {file: grams_of(text) for file, text in sources.items()}
    prints = {file: winnow([number for number, _, _ in found]) for file, found in grams.items()}
    return Work(name, origin, sources, grams, prints)


def without(work: Work, given: frozenset[int]) -> Work:
    """The work with only those fingerprints that are not of `given` code."""
    return replace(work, prints={file: prints - given for file, prints in work.prints.items()})


def common_code(works: Iterable[Work], least: int = COMMON) -> Counter[int]:
    """Hash -> how many of the works have it; only those that at least `least` have."""
    count = Counter(number for work in works for number in hashes_of(work))
    return Counter({number: times for number, times in count.items() if times >= least})


def hashes_of(work: Work) -> set[int]:
    """All hashes of a work, not only its fingerprints."""
    return {number for found in work.grams.values() for number, _, _ in found}


def compare(first: Work, second: Work) -> Pair:
    """What part of the smaller one's fingerprints the other has, too."""
    files = {
        file: _share(ours, second.prints[file])
        for file, ours in first.prints.items()
        if file in second.prints and min(len(ours), len(second.prints[file])) >= LEAST_PRINTS
    }
    return Pair(first, second, _share(first.all_prints, second.all_prints), files)


def _share(first: frozenset[int], second: frozenset[int]) -> float:
    return len(first & second) / min(len(first), len(second)) if first and second else 0.0


def suspects(works: Sequence[Work], others: Iterable[Work] = ()) -> list[Pair]:
    """Pairs of the class, and of the class with others, that a person should look at; the most similar first.

    Of the public solutions, which resemble each other, only the nearest one of each student is named.
    """
    pairs = [compare(first, second) for first, second in [*combinations(works, 2), *product(works, others)]]
    found = sorted((pair for pair in pairs if pair.is_suspect), key=lambda pair: -pair.rank)
    named, kept = set(), []
    for pair in found:
        if pair.second.origin == "public":
            if pair.first.name in named:
                continue
            named.add(pair.first.name)
        kept.append(pair)
    return kept
