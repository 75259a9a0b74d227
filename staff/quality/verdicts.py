"""Three judges, one verdict: what each says about every entry of the bank, and where they disagree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from staff.grader.toml_file import read_toml
from staff.quality.bank import Variant
from staff.quality.confusion import Graded, interval

HIDDEN = Path(__file__).parent / "hidden_on_purpose.toml"
FIRST = Path(__file__).parent / "first_measured.toml"
TITLES = {"public": "public tests", "mains": "mains", "grader": "grader"}


@dataclass
class Heard:
    """What the public tests or the mains say about an entry. found: TODO or run of a main -> first lines."""

    variant: Variant
    judge: str
    found: dict[str, list[str]]


class Opinions:
    """All that the judges said, by entry.

    A right solution is objected to by whatever any judge finds. A mistake is caught by the grader if it costs every
    TODO that it should, by the public tests if one of their TODOs fails, and by the mains if they find anything.
    """

    def __init__(
        self, bank: Iterable[Variant], graded: Iterable[Graded], heard: Iterable[Heard], folder: Path | None = None
    ) -> None:
        """folder: of the bank, where mistakes that are hidden on purpose have their reasons (default: Project 2's)."""
        self.variants = list(bank)
        hidden = folder / HIDDEN.name if folder else HIDDEN
        self.first = folder / FIRST.name if folder else FIRST
        self.because: dict[str, str] = read_toml(hidden).get("because", {}) if hidden.exists() else {}
        self.lines: dict[str, dict[str, list[str]]] = {variant.name: {} for variant in self.variants}
        for one in heard:
            self._add(one.variant, one.judge, [f"{where}: {lines[0]}" for where, lines in sorted(one.found.items())])
        for one in graded:
            lost = one.lost()
            lines = [f"{todo}: {checks[0]} (seed {one.seed})" for todo, checks in sorted(lost.items())]
            missed = set(one.variant.todos) - set(lost)
            self._add(one.variant, "grader", [] if missed else lines)

    def _add(self, variant: Variant, judge: str, lines: list[str]) -> None:
        self.lines[variant.name].setdefault(judge, []).extend(lines)

    def heard(self, variant: Variant, judge: str) -> bool:
        """Whether this judge was asked."""
        return judge in self.lines[variant.name]

    def objects(self, variant: Variant, judge: str) -> bool:
        """Whether a judge found something wrong."""
        return bool(self.lines[variant.name].get(judge))

    def asked(self) -> list[str]:
        """The judges that were asked at all."""
        return [judge for judge in TITLES if any(judge in found for found in self.lines.values())]

    def unheard_of(self) -> list[Variant]:
        """Mistakes that the grader catches and the public tests do not, without a reason."""
        return [variant for variant in self._hidden() if variant.name not in self.because]

    def on_purpose(self) -> list[Variant]:
        """The same with a reason."""
        return [variant for variant in self._hidden() if variant.name in self.because]

    def _hidden(self) -> list[Variant]:
        return [
            variant
            for variant in self.variants
            if not variant.is_right
            and self.objects(variant, "grader")
            and self.heard(variant, "public")
            and not self.objects(variant, "public")
        ]

    def not_hidden(self) -> list[str]:
        """Names in the list of hidden mistakes that the public tests catch after all, or that are in no bank."""
        known = {variant.name: variant for variant in self.variants}
        return [name for name in self.because if name in known and self.objects(known[name], "public")]


def shortfalls(opinions: Opinions) -> list[str]:
    """The bars that are missed, a line each; those of the grader alone are in confusion.py."""
    found = []
    for variant in opinions.variants:
        for judge in ("public", "mains") if variant.is_right else ():
            found += [
                f"{TITLES[judge]} object to {variant.name}: {line}"
                for line in opinions.lines[variant.name].get(judge, ())
            ]
    found += [
        f"{v.name} is caught by the grader, not by the public tests, and no reason is given"
        for v in opinions.unheard_of()
    ]
    found += [f"{name} is listed as hidden on purpose, and the public tests catch it" for name in opinions.not_hidden()]
    return found


def report(opinions: Opinions) -> str:
    """Markdown: counts by set, then every disagreement by name."""
    lines = ["## Three judges", "", *_table(opinions, right=True), "", *_table(opinions, right=False)]
    lines += first_measured(opinions.first)
    right = [variant for variant in opinions.variants if variant.is_right]
    lines += _cases(
        "Right solutions that a judge objects to",
        [
            f"{variant.name}: {TITLES[judge]}: {line}"
            for variant in right
            for judge in opinions.asked()
            for line in opinions.lines[variant.name].get(judge, ())
        ],
    )
    mistakes = [variant for variant in opinions.variants if not variant.is_right]
    if {"public", "grader"} <= set(opinions.asked()):
        lines += _cases("Caught by the grader, not by the public tests", map(_named, opinions.unheard_of()))
        lines += _cases(
            "The same, hidden on purpose",
            [f"{_named(variant)} Because {opinions.because[variant.name]}" for variant in opinions.on_purpose()],
        )
        lines += _cases(
            "Caught by the public tests, not by the grader",
            [_named(v) for v in mistakes if opinions.objects(v, "public") and not opinions.objects(v, "grader")],
        )
    others = [judge for judge in opinions.asked() if judge != "mains"]
    if "mains" in opinions.asked() and others:
        lines += _cases(
            "Caught by the mains alone",
            [
                f"{_named(v)} ({opinions.lines[v.name]['mains'][0]})"
                for v in mistakes
                if opinions.objects(v, "mains") and not any(opinions.objects(v, judge) for judge in others)
            ],
        )
    return "\n".join(lines)


def _table(opinions: Opinions, right: bool) -> list[str]:
    """A row for each set: entries, and how many each judge objected to."""
    asked = opinions.asked()
    what = "right solutions" if right else "mistakes"
    verb = "object" if right else "catch"
    lines = [
        f"| set | the checks knew it | {what} | "
        + " | ".join(f"{TITLES[judge]} {verb}" for judge in asked)
        + " | none of them |",
        "|---|---|---|" + "---|" * (len(asked) + 1),
    ]
    chosen = [variant for variant in opinions.variants if variant.is_right == right]
    for name, seen in sorted({(v.set, v.seen) for v in chosen}, key=lambda key: (not key[1], key[0])):
        rows = [variant for variant in chosen if (variant.set, variant.seen) == (name, seen)]
        cells = [
            interval(sum(opinions.objects(v, judge) for v in rows), sum(opinions.heard(v, judge) for v in rows))
            for judge in asked
        ]
        missed_by_all = sum(not any(opinions.objects(v, judge) for judge in asked) for v in rows)
        lines.append(f"| {name} | {'yes' if seen else 'no'} | {len(rows)} | {' | '.join(cells)} | {missed_by_all} |")
    return lines if chosen else []


def first_measured(path: Path) -> list[str]:
    """The rates of each set before the checks knew it, which alone say how often the judges err; [] without a file."""
    rows = read_toml(path).get("measured", []) if path.exists() else []
    if not rows:
        return []
    lines = [
        "",
        "Before the checks knew them, right solutions objected to and mistakes caught:",
        "",
        f"| set | commit | right solutions, mistakes | {' | '.join(TITLES.values())} |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        totals = (row["right"], row["mistakes"])
        cells = [
            "; ".join(interval(count, total) for count, total in zip(row[judge], totals, strict=True) if total)
            if judge in row
            else "not asked"
            for judge in TITLES
        ]
        lines.append(f"| {row['set']} | {row['commit']} | {totals[0]}, {totals[1]} | {' | '.join(cells)} |")
    return lines


def _named(variant: Variant) -> str:
    return f"{variant.name} ({', '.join(variant.todos)}): {variant.title}"


def _cases(title: str, cases: Iterable[str]) -> list[str]:
    cases = list(cases)
    return [
        "",
        f"{title}: {'none' if not cases else len(cases)}",
        *([""] if cases else []),
        *[f"- {case}" for case in cases],
    ]
