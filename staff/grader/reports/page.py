"""One HTML page for the student: the score, a row a TODO, and behind each row what was expected and what came."""

from __future__ import annotations

import html
import time
from itertools import groupby

from staff.grader.reports.feedback import QUESTION, data_note, public_notes, questions_of, said_of

# Every text colour has a contrast of at least 4.5 to 1 on both grounds; staff/tests/grader/test_reports.py computes it.
COLOURS = """
:root { color-scheme: light dark; --page: #ffffff; --box: #f1f3f5; --line: #c9ced4;
  --text: #1c1f23; --muted: #565e67; --good: #1c6e3a; --some: #7d5700; --bad: #a8281c;
  --hint: #1d4f91; --ask: #6b3a8c; }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --box: #23272c; --line: #474d55;
  --text: #e8eaed; --muted: #aab2bb; --good: #74cf94; --some: #e3b650; --bad: #ff9489;
  --hint: #8fbaf5; --ask: #d3a6ee; } }
body { background: var(--page); color: var(--text); }
"""
STYLE = f"""{COLOURS}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.3rem; margin-bottom: .3rem; }}
h2 {{ font-size: 1.1rem; margin-top: 1.8rem; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .6rem 0; font-size: .92rem; }}
dt {{ color: var(--muted); }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
code {{ font-size: .85em; overflow-wrap: anywhere; }}
.score {{ font-size: 2.2rem; font-weight: 600; margin: .2rem 0; }}
.bar {{ height: .6rem; background: var(--line); border-radius: .3rem; overflow: hidden; }}
.bar div {{ height: 100%; background: var(--good); }}
.partial {{ border: 2px solid var(--some); color: var(--some); padding: .5rem .8rem; font-weight: 600; }}
details {{ border-bottom: 1px solid var(--line); }}
summary {{ display: grid; grid-template-columns: 3rem 1fr 7rem 6rem; gap: .1rem 1rem; padding: .45rem 0; }}
summary {{ cursor: pointer; }}
summary .title {{ overflow-wrap: anywhere; }}
summary .title::after {{ content: " \\25b8"; color: var(--muted); }}
details[open] .title::after {{ content: " \\25be"; }}
summary .points {{ text-align: right; font-variant-numeric: tabular-nums; }}
.passed {{ color: var(--good); }}
.failed, .grader_error {{ color: var(--bad); }}
.partly {{ color: var(--some); }}
.check {{ background: var(--box); border-left: .25rem solid var(--line); padding: .4rem .8rem; margin: .5rem 0; }}
.check p, .question p {{ margin: .2rem 0; overflow-wrap: anywhere; }}
.verdict {{ font-weight: 600; }}
.cause {{ white-space: pre-wrap; }}
.where {{ font: .85rem/1.45 ui-monospace, monospace; color: var(--muted); white-space: pre-wrap; }}
.measured {{ font-size: .88rem; font-variant-numeric: tabular-nums; color: var(--muted); }}
.hint {{ color: var(--hint); }}
.question {{ color: var(--ask); font-style: italic; border-left: .25rem solid var(--ask); padding: .2rem .8rem; }}
.question {{ margin: .5rem 0 1rem; }}
.sum table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }}
.sum td {{ padding: .15rem .8rem .15rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }}
.sum td.number {{ text-align: right; white-space: nowrap; }}
.sum td:first-child {{ min-width: 7rem; }}
.sum td, .sum p {{ overflow-wrap: anywhere; }}
.label {{ font-weight: 600; font-style: normal; }}
footer {{ margin-top: 2rem; font-size: .88rem; color: var(--muted); overflow-wrap: anywhere; }}
@media (max-width: 34rem) {{
  summary {{ grid-template-columns: 3rem 1fr auto; }}
  summary .status {{ grid-area: 2 / 2; font-size: .88rem; }}
  summary .points {{ grid-area: 1 / 3; }}
  dl {{ grid-template-columns: 1fr; }}
  dd {{ margin-bottom: .3rem; }}
}}
"""


def _check(check: dict) -> str:
    lines = []
    for kind, said in groupby(said_of(check), key=lambda one: one.kind):
        text = html.escape("\n".join(one.text for one in said))
        label = '<span class="label">Hint: </span>' if kind == "hint" else ""
        colour = f" {check['status']}" if kind == "verdict" else ""
        lines.append(f'<p class="{kind}{colour}">{label}{text}</p>')
    return f'<div class="check">{"".join(lines)}</div>'


def _row(todo: dict) -> str:
    kind = todo["status"].replace(" ", "-")
    opened = " open" if todo["status"] in ("failed", "partly") and not todo["extra"] else ""
    cells = [("id", todo["id"]), ("title", todo["title"]), (f"status {kind}", todo["status"])]
    cells.append(("points", f"{todo['points']:g} / {todo['max']:g}"))
    spans = "".join(f'<span class="{name}">{html.escape(str(text))}</span>' for name, text in cells)
    asked = "".join(f"<p>{html.escape(said.text)}</p>" for said in questions_of(todo))
    if asked:
        asked = f'<div class="question"><p class="label">{QUESTION.capitalize()}</p>{asked}</div>'
    return f"<details{opened}><summary>{spans}</summary>{''.join(map(_check, todo['checks']))}{asked}</details>"


def _facts(results: dict) -> str:
    """Whose work it is, when it was handed in, and what graded it."""
    handed_in, made_by = results["submission"], results.get("grader", {})
    when = handed_in.get("last_change")
    rows = [
        ("Student", handed_in.get("name")),
        ("Due", handed_in.get("due")),
        ("Handed in", when and time.strftime("%Y-%m-%d %H:%M (time of the newest file)", time.localtime(when))),
        ("Git commit", handed_in.get("commit")),
        ("Graded", results.get("graded_at")),
        ("Grader", made_by and f"commit {made_by['commit']}, Python {made_by['python']}, PyTorch {made_by['torch']}"),
    ]
    return (
        "<dl>" + "".join(f"<dt>{name}</dt><dd>{html.escape(str(text))}</dd>" for name, text in rows if text) + "</dl>"
    )


def _files(results: dict) -> str:
    """What was graded, with hashes by which a student can prove what they handed in."""
    rows = results["submission"].get("hashes", {}).items()
    lines = "".join(f"<dt>{html.escape(name)}</dt><dd><code>{number}</code></dd>" for name, number in rows)
    return f"<h2>Files that were graded (SHA-256)</h2><dl>{lines}</dl>" if lines else ""


def render(results: dict, more: str = "") -> str:
    """The whole page; needs no other file and no network.

    results: of the grader.
    more: HTML above the score, such as the sum with what people decided.
    """
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
    title, partial = html.escape(results["title"]), html.escape(results.get("partial", ""))
    banner = f'<p class="partial">Partial grading, not a grade: {partial}</p>' if partial else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>{_facts(results)}{more}{banner}"
        f'<p class="score">{results["score"]:g} of {results["max_score"]:g}{extra}</p>'
        f'<div class="bar"><div style="width:{share:.1f}%"></div></div>'
        f"{''.join(sections)}{_files(results)}<footer>{notes}</footer></body></html>\n"
    )
