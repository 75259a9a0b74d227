"""The report: one text with places for numbers, filled from results.json, as Markdown, HTML and PDF."""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import markdown

from labs.pathmnist_resnet18.src import document
from labs.pathmnist_resnet18.src.wording import change, fixed, mean_sd, network, schedule, words
from toolkit.errors import UserError
from toolkit.runs import read_json, write_bytes

TEMPLATE = Path(__file__).with_name("report_template.md")
STYLE = Path(__file__).with_name("report.css")
HEADLINE = ("accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "macro_auc")
ORIGINS = {"bundled": "bundled with the repository", "file": "file in the data folder", "download": "downloaded"}


def from_file(path: Path | str, pages: Path) -> None:
    """Write reports/report.md, .html, .pdf and .docx in `pages` from a results.json and the pictures in figures/."""
    results = read_json(path)
    folder = pages / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        text = render(results, pages / "figures")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a results.json of this study, or of another version: {error}") from None
    body = to_html(text)
    html = page(f"PathMNIST with ResNet-18, {results['data']['name']}", body, folder)
    write_bytes(folder / "report.md", text.encode())
    write_bytes(folder / "report.html", html.encode())
    print(f"report: {folder / 'report.html'}")
    write_pdf(html, folder / "report.pdf")
    document.write(body, folder, folder / "report.docx")


def write_pdf(html: str, path: Path) -> None:
    """Print the page as PDF; a line says why where it cannot be done."""
    try:
        import weasyprint  # needs pango, a system library: without it the page is still there
    except OSError as error:
        print(f"note: no {path.name}: WeasyPrint finds no pango ({error}); print report.html from a browser")
        return
    write_bytes(path, weasyprint.HTML(string=html).write_pdf())
    print(f"report: {path}")


def render(results: Mapping[str, Any], figures: Path) -> str:
    """The report as Markdown. figures: folder of pictures; one that is not there is left out."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {
        "fixed": fixed,
        "fixed4": lambda value: f"{value:.4f}",
        "count": lambda value: f"{value:,}" if value is not None else "",
        "percent": lambda value: f"{value:.0%}",
        "of": lambda number, noun: f"{number:,} {noun}{'' if number == 1 else 's'}",
        "points": lambda value: f"{100 * value:+.1f}",
        "points_plain": lambda value: f"{100 * value:.1f}",
        "interval": lambda pair: f"{pair[0]:.3f} – {pair[1]:.3f}" if pair else "",
        "words": words,
        "network": network,
        "schedule": schedule,
        "mean_sd": mean_sd,
        "change": change,
    }

    def figure(name: str, caption: str) -> str:
        return f"![{caption}](../figures/{name})" if (figures / name).is_file() else ""

    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(**view(results), headline=HEADLINE, figure=figure)


def view(results: Mapping[str, Any]) -> dict[str, Any]:
    """results.json with what follows from it."""
    data = dict(results["data"])
    data["origin_text"] = ORIGINS[data["origin"]]
    data["is_official"] = not data["is_sample"] and not data["name"].endswith("-unverified")
    goals = {**results["goals"], "published": [published(row) for row in results["goals"]["published"]]}
    final = results["final"]
    trained = next((results[name] for name in ("baseline", "final") if results[name]), None)
    return {
        **results,
        "data": data,
        "goals": goals,
        "size": trained["config"]["image_size"] if trained else 64,
        "seed": trained["config"]["seed"] if trained else 0,
        "verdict": verdict(data, goals, final),
    }


def published(row: Mapping[str, Any]) -> dict[str, Any]:
    """A published figure; what was not published is None."""
    names = ("val_accuracy", "test_accuracy", "test_accuracy_sd", "macro_auc")
    return {"what": row["what"], **{name: row.get(name) for name in names}}


def verdict(data: Mapping[str, Any], goals: Mapping[str, Any], final: Mapping[str, Any] | None) -> str:
    """Whether the goals are met, or why that cannot be said."""
    if not final:
        return ""
    if not data["is_official"]:
        return f"Whether the goals are met cannot be said: they are for {goals['for']}, and this is `{data['name']}`."
    test = final["test"]["metrics"]
    gap = final["validation"]["metrics"]["accuracy"] - test["accuracy"]
    met = {
        "test accuracy": test["accuracy"] >= goals["test_accuracy"],
        "macro AUC": test["macro_auc"] >= goals["macro_auc"],
        "gap": gap <= goals["val_test_gap"],
    }
    return "; ".join(f"{name}: {'met' if is_met else 'not met'}" for name, is_met in met.items()) + "."


def to_html(text: str) -> str:
    """Markdown → the body of a page, as XML."""
    return markdown.markdown(text, extensions=["tables", "sane_lists"], output_format="xhtml")


def page(title: str, body: str, folder: Path) -> str:
    """One file that needs no other: style and pictures are in it. `folder`: what the pictures' paths start from."""
    root = ElementTree.fromstring(f"<main>{body}</main>")
    for image in root.iter("img"):
        content = base64.b64encode((folder / image.attrib["src"]).read_bytes()).decode()
        image.attrib["src"] = f"data:image/png;base64,{content}"
    content = ElementTree.tostring(root, encoding="unicode", method="html")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n{content}\n</body>\n</html>\n"
    )
