"""One page of the homework, report.html: the table, every picture and the written answers. Provided."""

from __future__ import annotations

import base64
import html
import io
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.runs import write_bytes

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "img{max-width:100%}table{border-collapse:collapse}"
    "td{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:left}"
    ".quick{background:#fdd;padding:.6rem}"
)
PARTS = {"1": "Data", "2": "A CNN of your own", "3": "Transfer learning", "4": "Evaluation", "5": "Interpretability"}


def write(results: Mapping[str, Any], folder: Path, code: Sequence[Path]) -> None:
    """Write report.html into `folder`; pictures are in it, so the one file can be sent by e-mail.

    results: what run.py collects. code: the graded files, whose ANSWER comments are shown.
    """
    answers = {number: text for path in code for number, text in answers_in(path.read_text(encoding="utf-8")).items()}
    sections = []
    for part, name in PARTS.items():
        body = [f"<h2>Part {part}: {name}</h2>"]
        if part == "3":
            body.append(table_html(results["table"]))
        if part == "4":
            body.append(points_html(results))
        body += [picture(path) for path in sorted(folder.glob(f"{part}_*.png"))]
        sections.append("\n".join([*body, answers_html(answers, part)]))
    sections.append("<h2>Questions</h2>" + answers_html(answers, "6"))
    quick = '<p class="quick">Quick run: these numbers mean nothing.</p>' if results["config"]["quick"] else ""
    about = html.escape(f"{results['dataset']}; {results['device']}, {results['precision']}")
    text = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Homework 5</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><h1>Homework 5: pneumonia on chest X-rays</h1>{quick}<p>{about}</p>\n" + "\n".join(sections)
    )
    write_bytes(folder / "report.html", (text + "\n</body></html>\n").encode())


def answers_in(source: str) -> dict[str, str]:
    """{'1.2': text} of the answers in comments and docstrings: a line that starts with ANSWER, and those right below.

    What ends with a question mark is the question, which the docstrings ask in the same form.
    """
    paragraphs: list[list[str]] = []
    last_row, is_open = -1, False
    for row, line in written_lines(source):
        if match := re.match(r"ANSWER (\d+\.\d+):\s*(.*)", line):
            paragraphs.append([match[1], match[2]])
            is_open = True
        elif is_open and line and row == last_row + 1:
            paragraphs[-1][1] += f" {line}"
        else:
            is_open = False
        last_row = row
    return {number: text for number, text in paragraphs if not text.endswith("?")}


def written_lines(source: str) -> Iterator[tuple[int, str]]:
    """(row, text) of each comment and of each line of a text in triple quotes, '' where such a text ends."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ").strip()
        elif token.type == tokenize.STRING and token.string.startswith('"""'):
            yield from enumerate((line.strip() for line in token.string.strip('"').split("\n")), token.start[0])
            yield token.end[0], ""


def answers_html(answers: Mapping[str, str], part: str) -> str:
    """The answers of one part, or that there are none."""
    own = {number: text for number, text in sorted(answers.items()) if number.startswith(f"{part}.")}
    return "\n".join(f"<p><b>{number}</b> {html.escape(text)}</p>" for number, text in own.items())


def picture(path: Path) -> str:
    """An image that is part of the page."""
    name = path.stem.split("_", 1)[1].replace("_", " ")
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{html.escape(name)}" src="data:image/png;base64,{content}"></p>'


def table_html(markdown: str) -> str:
    """A Markdown table as HTML; any other text as it is."""
    lines = [line.strip().strip("|").split("|") for line in markdown.splitlines() if line.strip().startswith("|")]
    if len(lines) < 2:
        return f"<pre>{html.escape(markdown)}</pre>"
    rows = [lines[0], *lines[2:]]  # the second line is the rule
    cells = ["".join(f"<td>{html.escape(cell.strip())}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def points_html(results: Mapping[str, Any]) -> str:
    """The operating points of the best model."""
    lines = ["| threshold | value | sensitivity | specificity | precision |", "|---|---|---|---|---|"]
    for name, point in results["operating_points"].items():
        values = (point["threshold"], point["recall"], point["specificity"], point["precision"])
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    best = html.escape(results["best_model"])
    return f"<p>Best model on validation images: {best}. Its operating points:</p>" + table_html("\n".join(lines))
