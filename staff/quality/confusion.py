"""From gradings of the bank to the grader's error rates: a matrix per TODO, survivors, collateral."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from scipy.stats import binomtest

from staff.quality.bank import Variant

CAUGHT_BAR = 0.95  # share of the mistakes that must cost what they should
# Checks of checkpoints and of pictures, which the bank's entries do not hold.
HANDED_IN = ("test_checkpoint", "test_extra_credit", "test_figure")


@dataclass
class Graded:
    """One grading of an entry of the bank. `todos`: the entries of the grader's results."""

    variant: Variant
    seed: int
    todos: list[dict]

    def lost(self) -> dict[str, list[str]]:
        """TODO -> names of the checks that failed. Skipped because of another TODO is not a loss of this one."""
        found = {}
        for todo in self.todos:
            checks = [check for check in todo["checks"] if not is_handed_in(check)]
            failed = [check["test"] for check in checks if check["status"] not in ("passed", "skipped")]
            if failed:
                found[todo["id"]] = failed
        return found

    def seen(self) -> list[str]:
        """The TODOs that were graded."""
        return [
            todo["id"]
            for todo in self.todos
            if any(check["status"] != "skipped" and not is_handed_in(check) for check in todo["checks"])
        ]


def is_handed_in(check: dict) -> bool:
    """Whether a check looks at a file that is handed in with the code."""
    return check["test"].partition("[")[0].endswith(HANDED_IN)


def interval(count: int, total: int) -> str:
    """'count of total (low% to high%)': a 95% Wilson interval."""
    if not total:
        return "-"
    found = binomtest(count, total).proportion_ci(0.95, method="wilson")
    return f"{count} of {total} ({100 * found.low:.1f}% to {100 * found.high:.1f}%)"


def false_failures(graded: list[Graded]) -> list[tuple[Graded, str, list[str]]]:
    """(grading, TODO, failed checks) where a right solution lost something."""
    return [(one, todo, tests) for one in graded if one.variant.is_right for todo, tests in one.lost().items()]


def survivors(graded: list[Graded]) -> list[tuple[Graded, str]]:
    """(grading, TODO) where a mistake kept all points of a TODO that it should cost."""
    return [
        (one, todo)
        for one in graded
        for todo in one.variant.todos
        if not one.variant.is_right and todo not in one.lost()
    ]


def collateral(graded: list[Graded]) -> list[tuple[Graded, str, list[str]]]:
    """(grading, TODO, failed checks) where a mistake cost a TODO that it does not touch."""
    return [
        (one, todo, tests)
        for one in graded
        if not one.variant.is_right
        for todo, tests in one.lost().items()
        if todo not in one.variant.todos + one.variant.may_cost
    ]


def shortfalls(graded: list[Graded]) -> list[str]:
    """The bars that are missed, a line each."""
    found = [f"{one.variant.name} (seed {one.seed}) fails TODO {todo}" for one, todo, _ in false_failures(graded)]
    mistakes = [one for one in graded if not one.variant.is_right]
    survived = {one.variant.name for one, _ in survivors(graded)}
    if mistakes and 1 - len(survived) / len(mistakes) < CAUGHT_BAR:
        found.append(f"{len(survived)} of {len(mistakes)} mistakes survive; allowed: {1 - CAUGHT_BAR:.0%}")
    found += [f"{one.variant.name} costs TODO {todo}, which it does not touch" for one, todo, _ in collateral(graded)]
    return found


def report(graded: list[Graded], quick: bool) -> str:
    """Markdown: totals, the matrix per TODO, and every case behind it by name."""
    failures, survived, others = false_failures(graded), survivors(graded), collateral(graded)
    right = [one for one in graded if one.variant.is_right]
    mistakes = [one for one in graded if not one.variant.is_right]
    caught = len(mistakes) - len({one.variant.name for one, _ in survived})
    wrong_runs = len({(one.variant.name, one.seed) for one, _, _ in failures})
    too_much = len({one.variant.name for one, _, _ in others})
    lines = [
        f"Training gates: {'left out' if quick else 'of right solutions'}. No checkpoint and no picture is handed in,"
        " and no check of one counted. Intervals are 95% Wilson intervals.",
        "",
        f"- Gradings of right solutions that lost anything: {interval(wrong_runs, len(right))}",
        f"- Mistakes that cost every TODO they should: {interval(caught, len(mistakes))}",
        f"- Mistakes that cost a TODO they do not touch: {interval(too_much, len(mistakes))}",
        "",
        "| TODO | false failures (right solutions) | caught (mistakes) | false passes |",
        "|---|---|---|---|",
    ]
    for todo in sorted({todo for one in graded for todo in one.seen()}):
        runs = sum(todo in one.seen() for one in right)
        aimed = [one for one in mistakes if todo in one.variant.todos]
        missed = sum(todo == other for _, other in survived)
        failed = sum(todo == other for _, other, _ in failures)
        row = [interval(failed, runs), interval(len(aimed) - missed, len(aimed)), interval(missed, len(aimed))]
        lines.append(f"| {todo} | {' | '.join(row)} |")
    lines += gate_table(right)
    lines += _cases("False failures", [f"{o.variant.name}, seed {o.seed}: {t}: {', '.join(c)}" for o, t, c in failures])
    lines += _cases("Survivors", [f"{one.variant.name}: {todo}: {one.variant.title}" for one, todo in survived])
    lines += _cases("Collateral", [f"{one.variant.name}: {todo}: {', '.join(checks)}" for one, todo, checks in others])
    return "\n".join(lines)


def gate_table(right: list[Graded]) -> list[str]:
    """What right solutions reached in the first try at each gate, as a Markdown table; empty without gates."""
    rows: dict[str, list[tuple[str, list[float], float]]] = {}
    for one in right:
        for todo in one.todos:
            for measured in (m for check in todo["checks"] for m in check.get("measured", [])):
                row = (one.variant.name, measured["values"], measured["threshold"])
                rows.setdefault(measured["gate"], []).append(row)
    if not rows:
        return []
    lines = ["", "| gate | threshold | gradings | mean ± sd of first tries | least first try | tried again |"]
    lines.append("|---|---|---|---|---|---|")
    for gate, found in sorted(rows.items()):
        values = [row[1][0] for row in found]
        least = min(found, key=lambda row: row[1][0])
        spread = f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")
        again = sum(len(row[1]) > 1 for row in found)
        lines.append(f"| {gate} | {least[2]:g} | {len(found)} | {spread} | {least[1][0]:.3f} ({least[0]}) | {again} |")
    return lines


def _cases(title: str, cases: list[str]) -> list[str]:
    return ["", f"{title}: {'none' if not cases else ''}".rstrip(), *[f"- {case}" for case in cases]]
