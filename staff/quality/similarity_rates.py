"""How often the similarity of submissions raises a false alarm: `python -m staff.quality.similarity_rates`.

Independent work is what the bank's whole submissions and the reference are to each other. Copies are the bank's
alternates, each the reference with one or several TODOs written otherwise, and every whole submission with one file
taken from the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import mean, stdev

from staff.gradebook.similar import starter_hashes
from staff.gradebook.similarity import (
    COMMON,
    ONE_FILE,
    WHOLE,
    Pair,
    Work,
    common_code,
    compare,
    hashes_of,
    make_work,
    without,
)
from staff.quality import bank
from toolkit.cli import OneLineParser, run_script


class Comparison:
    """Pairs as they are compared, where common is only what other solutions of the bank than the pair's own share."""

    def __init__(self, whole: Sequence[Work]) -> None:
        self.starter, self.count = starter_hashes("project2"), common_code(whole, 1)
        self.hashes = {work.name: hashes_of(work) for work in whole}

    def __call__(self, first: Work, second: Work) -> Pair:
        own = [self.hashes[work.name] for work in (first, second) if work.name in self.hashes]
        common = {n for n, times in self.count.items() if times - sum(n in one for one in own) >= COMMON}
        given = self.starter | common
        return compare(without(first, given), without(second, given))


def with_a_file_of(work: Work, source: Work, file: str) -> Work:
    """The work with one file taken from another."""
    parts = {
        name: {**getattr(work, name), file: getattr(source, name)[file]} for name in ("sources", "grams", "prints")
    }
    return Work(work.name, "class", **parts)


def told(what: str, pairs: Sequence[Pair]) -> str:
    """A row of the table."""
    shares = [pair.whole for pair in pairs]
    most = max((share for pair in pairs for share in pair.files.values()), default=0.0)
    suspect = sum(pair.is_suspect for pair in pairs)
    spread = f"{mean(shares):.2f} ± {stdev(shares):.2f}, {min(shares):.2f} to {max(shares):.2f}"
    return f"| {what} | {len(pairs)} | {spread} | {most:.2f} | {suspect} |"


def main() -> int:
    """Measure and print a table."""
    OneLineParser(description=__doc__.splitlines()[0]).parse_args()
    right = [variant for variant in bank.load_bank() if variant.is_right]
    works = {variant.name: make_work(variant.name, "public", variant.files) for variant in right}
    reference = works["reference"]
    whole = [works[variant.name] for variant in right if variant.is_whole]
    changed = [works[variant.name] for variant in right if not variant.is_whole and variant.name != "reference"]
    paired = Comparison(whole)
    next_ones = [(work, whole[(place + 1) % len(whole)]) for place, work in enumerate(whole)]
    alone = [paired(first, second) for first, second in combinations([reference, *whole], 2)]
    copies = {
        "the reference, some TODOs written otherwise": [paired(one, reference) for one in changed],
        "own work, one file taken from someone else": [
            paired(with_a_file_of(one, other, file), other) for one, other in next_ones for file in bank.reference()
        ],
    }
    print(f"Looked at: whole share >= {WHOLE}, or one file >= {ONE_FILE}.\n")
    print("| pairs | n | whole share: mean ± sd, least to most | most of one file | looked at |")
    print("|---|---|---|---|---|")
    print(told("independent work", alone))
    for what, pairs in copies.items():
        print(told(what, pairs))
    alarms = sum(pair.is_suspect for pair in alone)
    if not alarms:
        rate = f"below {3 / len(alone):.1%} with 95 % confidence"
        print(f"\nNo alarm in {len(alone)} pairs: their rate is {rate}, as far as the pairs are independent.")
    return 0


if __name__ == "__main__":
    run_script(main)
