"""The report as a Word file, from the same page: headings, paragraphs, tables that stay whole, pictures."""

from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import docx
from docx.document import Document
from docx.oxml import OxmlElement
from docx.shared import Cm, Pt
from docx.text.paragraph import Paragraph

from toolkit.runs import write_bytes

PICTURE_CM = 15.0
STYLES = {"h1": "Title", "h2": "Heading 1", "h3": "Heading 2", "p": "Normal", "blockquote": "Intense Quote"}


def write(body: str, folder: Path, path: Path) -> None:
    """Write the page's body (XML, see report.to_html) as .docx; `folder`: what the pictures' paths start from."""
    document = docx.Document()
    for element in ElementTree.fromstring(f"<main>{body}</main>"):
        add(document, element, folder)
    content = io.BytesIO()
    document.save(content)
    write_bytes(path, content.getvalue())
    print(f"report: {path}")


def add(document: Document, element: ElementTree.Element, folder: Path) -> None:
    """One element of the page."""
    if element.tag == "table":
        add_table(document, element)
    elif element.tag in ("ul", "ol"):
        for item in element.iter("li"):
            add_text(document.add_paragraph(style="List Bullet"), item)
    elif (image := element.find(".//img")) is not None:
        add_picture(document, image.attrib, folder)
    elif "".join(element.itertext()).strip():
        add_text(document.add_paragraph(style=STYLES.get(element.tag, "Normal")), element)


def add_text(paragraph: Paragraph, element: ElementTree.Element) -> None:
    """The words of an element, bold and code kept."""
    paragraph.add_run(flat(element.text))
    for child in element:
        run = paragraph.add_run(flat("".join(child.itertext())))
        run.bold = child.tag == "strong" or None
        if child.tag == "code":
            run.font.name = "Consolas"
        paragraph.add_run(flat(child.tail))


def flat(text: str | None) -> str:
    """Line breaks of the source are blanks."""
    return " ".join((text or "").split("\n"))


def add_table(document: Document, element: ElementTree.Element) -> None:
    """A table that no page break tears: rows are not split, and each but the last is kept with the next."""

    rows = [["".join(cell.itertext()).strip() for cell in row] for row in element.iter("tr")]
    table = document.add_table(rows=len(rows), cols=max(map(len, rows)), style="Light List")
    for number, (row, words) in enumerate(zip(table.rows, rows, strict=True)):
        row._tr.get_or_add_trPr().append(OxmlElement("w:cantSplit"))
        for cell, text in zip(row.cells, words, strict=False):
            cell.text = text
            for paragraph in cell.paragraphs:
                paragraph.paragraph_format.keep_with_next = number < len(rows) - 1
                for run in paragraph.runs:
                    run.font.size = Pt(8.5)
    document.add_paragraph()


def add_picture(document: Document, image: dict[str, str], folder: Path) -> None:
    """A picture with its caption on the same page."""

    source = image["src"]
    content = (
        base64.b64decode(source.split(",", 1)[1]) if source.startswith("data:") else (folder / source).read_bytes()
    )
    document.add_picture(io.BytesIO(content), width=Cm(PICTURE_CM))
    document.paragraphs[-1].paragraph_format.keep_with_next = True
    document.add_paragraph(image.get("alt", ""), style="Caption")
