"""Pages that show similar submissions side by side, for a person to judge. All that came from students is escaped."""

from __future__ import annotations

import html
import shutil
from collections.abc import Sequence
from pathlib import Path

from staff.gradebook.class_report import STYLE
from staff.gradebook.similarity import GRAM, ONE_FILE, WHOLE, WINDOW, Pair, Work
from toolkit.runs import write_bytes

MOST_LINES = 4000  # of a file that are shown
PAIR_STYLE = """
.both { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.both > div { min-width: 0; }
pre { font: 12px/1.5 ui-monospace, monospace; background: var(--box); padding: .5rem; overflow-x: auto; margin: 0; }
.line { display: block; min-width: max-content; border-left: .3rem solid transparent; padding-left: .4rem; }
.line:target { outline: 2px solid var(--hint); }
.shared { border-color: var(--some); background: color-mix(in srgb, var(--some) 16%, transparent); }
.given { color: var(--muted); }
.at { color: var(--muted); display: inline-block; width: 2.6rem; user-select: none; }
@media (max-width: 50rem) { .both { grid-template-columns: 1fr; } td, th { white-space: normal; } }
"""
JUDGE = (
    "A high share is no proof. Ask what a common source would explain (a tutorial, a lecture, help that is allowed), "
    "look for shared mistakes, odd choices and the same order of unrelated things, and talk to both before deciding."
)


def told(pair: Pair) -> str:
    """'62% of the smaller one; segmentation_models.py 91%'."""
    files = [f"{name} {share:.0%}" for name, share in pair.files.items() if share >= ONE_FILE]
    return "; ".join([f"{pair.whole:.0%} of the smaller one", *files])


def write(
    pairs: Sequence[Pair], works: Sequence[Work], problems: Sequence[str], given: frozenset[int], out: Path
) -> Path:
    """Write index.html and a page for each pair into `out`; pages of an earlier run are removed."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "pairs", ignore_errors=True)
    (out / "pairs").mkdir()
    for number, pair in enumerate(pairs, 1):
        text = _pair_page(pair, given)
        write_bytes(out / "pairs" / f"{number:03}.html", text.encode("utf-8", "replace"))
    write_bytes(out / "index.html", _index(pairs, works, problems).encode("utf-8", "replace"))
    return out / "index.html"


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{PAIR_STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )


def _index(pairs: Sequence[Pair], works: Sequence[Work], problems: Sequence[str]) -> str:
    rows = []
    for number, pair in enumerate(pairs, 1):
        files = "; ".join(f"{name} {share:.0%}" for name, share in pair.files.items())
        names = f"<td>{html.escape(pair.first.name)}</td><td>{html.escape(pair.second.name)}</td>"
        rows.append(
            f'<tr><td><a href="pairs/{number:03}.html">compare</a></td>{names}'
            f'<td class="number">{pair.whole:.0%}</td><td class="note">{html.escape(files)}</td></tr>'
        )
    head = "<tr><th></th><th>one</th><th>other</th><th>whole</th><th>file by file</th></tr>"
    table = f'<div class="wide"><table>{head}{"".join(rows)}</table></div>' if rows else "<p>No pair is.</p>"
    method = (
        f"{len(works)} submissions. Shares count fingerprints of {GRAM} tokens, the least of each {WINDOW}, without "
        "names, comments, layout, constants, the starter's code and what independent solutions share, over those of "
        "the smaller submission. Listed "
        f"is who shares {WHOLE:.0%} of the whole or {ONE_FILE:.0%} of one file; how often independent work does is "
        "measured in staff/README.md."
    )
    wrong = "".join(f"<li>{html.escape(line)}</li>" for line in problems)
    wrong = f"<h2>Not compared</h2><ul>{wrong}</ul>" if wrong else ""
    return _page("Similar submissions", f"<p>{method}</p><p>{JUDGE}</p>{table}{wrong}")


def _pair_page(pair: Pair, given: frozenset[int]) -> str:
    sides = [_lines(pair.first, pair.second, given), _lines(pair.second, pair.first, given)]
    parts = []
    for file in sorted({*pair.first.sources, *pair.second.sources}):
        share = f": {pair.files[file]:.0%}" if file in pair.files else ""
        columns = [
            f"<div><p>{html.escape(work.name)}</p>{_source(work, file, shared, side)}</div>"
            for side, (work, shared) in enumerate(zip((pair.first, pair.second), sides, strict=True))
        ]
        parts.append(f'<h2>{html.escape(file)}{share}</h2><div class="both">{"".join(columns)}</div>')
    legend = (
        'Lines with <span class="line shared" style="display:inline">code that both have</span> lead to each other by '
        'their numbers; <span class="given">code of the starter, and code that independent solutions share,</span> '
        "does not count."
    )
    intro = f'<p><a href="../index.html">all pairs</a></p><p>{html.escape(told(pair))}. {legend}</p>'
    return _page(f"{pair.first.name} and {pair.second.name}", intro + "".join(parts))


def _lines(work: Work, other: Work, given: frozenset[int]) -> dict[str, dict[int, tuple[str, int] | None]]:
    """File -> line -> where the other one has the code that begins or stands there; None: it is given or common."""
    places: dict[int, tuple[str, int]] = {}
    for file, grams in other.grams.items():
        for number, first, _ in grams:
            places.setdefault(number, (file, first))
    found: dict[str, dict[int, tuple[str, int] | None]] = {}
    for file, grams in work.grams.items():
        lines = found.setdefault(file, {})
        for number, first, last in grams:
            if number in given:
                lines.update((line, lines.get(line)) for line in range(first, last + 1))
            elif number in places:
                to, start = places[number]
                for line in range(first, min(last, first + GRAM) + 1):
                    if lines.get(line) is None:
                        lines[line] = (to, start + line - first)
    return found


def _source(work: Work, file: str, shared: dict[str, dict[int, tuple[str, int] | None]], side: int) -> str:
    if file not in work.sources:
        return "<p>not handed in</p>"
    marks, rows = shared.get(file, {}), []
    text = work.sources[file].splitlines()
    for number, line in enumerate(text[:MOST_LINES], 1):
        place = marks.get(number)
        kind = "shared" if place else "given" if number in marks else ""
        shown = f'<span class="at">{number}</span>'
        if place:
            shown = f'<a class="at" href="#{_anchor(1 - side, *place)}">{number}</a>'
        code = html.escape("".join(c if c.isprintable() or c == "\t" else "?" for c in line))
        rows.append(f'<span class="line {kind}" id="{_anchor(side, file, number)}">{shown}{code}</span>')
    more = f"<p>{len(text) - MOST_LINES} more lines</p>" if len(text) > MOST_LINES else ""
    return f"<pre>{''.join(rows)}</pre>{more}"


def _anchor(side: int, file: str, line: int) -> str:
    return html.escape(f"{'ab'[side]}-{file}-{line}")
