"""One HTML page for the student: the score, a row a TODO, and behind each row what was expected and what came."""

from __future__ import annotations

import html

from staff.grader.reports.feedback import data_note, public_notes, todo_lines

STYLE = """
:root { color-scheme: light dark; --soft: #8883; --good: #2a8a4a; --bad: #c0392b; --some: #b8860b; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; }
.score { font-size: 2.2rem; font-weight: 600; margin: .2rem 0; }
.bar { height: .6rem; background: var(--soft); border-radius: .3rem; overflow: hidden; }
.bar div { height: 100%; background: var(--good); }
details { border-bottom: 1px solid var(--soft); }
summary { display: grid; grid-template-columns: 3rem 1fr 7rem 5rem; gap: .1rem 1rem; padding: .45rem 0; }
summary { cursor: pointer; }
summary .title { overflow-wrap: anywhere; }
summary .title::after { content: " \\25b8"; opacity: .5; }
details[open] .title::after { content: " \\25be"; }
summary .points { text-align: right; font-variant-numeric: tabular-nums; }
@media (max-width: 34rem) {
  summary { grid-template-columns: 3rem 1fr auto; }
  summary .status { grid-area: 2 / 2; font-size: .85rem; }
  summary .points { grid-area: 1 / 3; }
}
.passed { color: var(--good); }
.failed { color: var(--bad); }
.partly { color: var(--some); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .7rem; font-size: .85rem; }
footer { margin-top: 2rem; font-size: .85rem; opacity: .8; }
"""


def _row(todo: dict) -> str:
    kind = todo["status"].replace(" ", "-")
    detail = html.escape("\n".join(todo_lines(todo)))
    opened = " open" if todo["status"] in ("failed", "partly") and not todo["extra"] else ""
    cells = [("id", todo["id"]), ("title", todo["title"]), (f"status {kind}", todo["status"])]
    cells.append(("points", f"{todo['points']:g} / {todo['max']:g}"))
    spans = "".join(f'<span class="{name}">{html.escape(str(text))}</span>' for name, text in cells)
    return f"<details{opened}><summary>{spans}</summary><pre>{detail}</pre></details>"


def render(results: dict) -> str:
    """The whole page; needs no other file and no network."""
    share = 100 * results["score"] / results["max_score"] if results["max_score"] else 0
    extra = f" + {results['extra']:g} extra" if results["extra"] else ""
    parts: dict[str, list[dict]] = {}
    for todo in results["todos"]:
        parts.setdefault("Extra credit" if todo["extra"] else todo["part"], []).append(todo)
    sections = []
    for part, todos in parts.items():
        earned, most = sum(todo["points"] for todo in todos), sum(todo["max"] for todo in todos)
        rows = "".join(_row(todo) for todo in todos)
        sections.append(f"<section><h2>{html.escape(part)}: {earned:g} of {most:g}</h2>{rows}</section>")
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in [data_note(results), *public_notes(results)])
    title = html.escape(results["title"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
        f'<p class="score">{results["score"]:g} of {results["max_score"]:g}{extra}</p>'
        f'<div class="bar"><div style="width:{share:.1f}%"></div></div>'
        f"{''.join(sections)}<footer>{notes}</footer></body></html>\n"
    )
