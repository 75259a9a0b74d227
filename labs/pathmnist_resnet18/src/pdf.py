"""The report's body (XML of its Markdown) as a PDF: headings, paragraphs, lists, notes, tables and pictures.

fpdf2 draws it, in the typeface that comes with matplotlib, so no browser and no system library is needed.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from fpdf import FPDF
from fpdf.enums import TableBordersLayout
from fpdf.fonts import FontFace

FACE = "DejaVu"
TEXT_SIZE, TABLE_SIZE, CAPTION_SIZE = 10, 8.5, 8.5  # points
HEADINGS = {"h1": 19, "h2": 14, "h3": 11.5}
LINE = 5.2  # mm
MARGIN = 20  # mm
MOST_HEIGHT = 130  # mm of a picture, so that two fit on a page; only a tall one has a page for itself
NOTE_COLOR, RULE_COLOR = (255, 244, 229), 170
Runs = list[tuple[str, str]]  # (style: '', 'B', 'I' or 'M' for code; text)


class Paper(FPDF):
    """A4 with page numbers and the title below."""

    def __init__(self, title: str) -> None:
        super().__init__(format="A4")
        import matplotlib

        fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        for style, name in (("", "DejaVuSans"), ("B", "DejaVuSans-Bold"), ("I", "DejaVuSans-Oblique")):
            self.add_font(FACE, style, fonts / f"{name}.ttf")
        self.add_font(f"{FACE}Mono", "", fonts / "DejaVuSansMono.ttf")
        self.set_title(title)
        self.set_margins(MARGIN, MARGIN)
        self.set_auto_page_break(True, MARGIN)

    def footer(self) -> None:
        """fpdf2 calls this at the end of each page."""
        self.set_y(-12)
        self.set_font(FACE, "", 7.5)
        self.set_text_color(110)
        self.cell(0, 5, f"{self.title}   ·   {self.page_no()}", align="C")
        self.set_text_color(0)


def make(title: str, body: str, folder: Path) -> bytes:
    """The PDF file's content. body: XML elements; folder: what the pictures' paths start from."""
    paper = Paper(title)
    paper.add_page()
    for element in ElementTree.fromstring(f"<main>{body}</main>"):
        _block(paper, element, folder)
    return bytes(paper.output())


def _block(paper: Paper, element: ElementTree.Element, folder: Path) -> None:
    """One heading, paragraph, list, note, table or picture."""
    image = element.find("img")
    if element.tag in HEADINGS:
        _heading(paper, element)
    elif image is not None:
        _picture(paper, folder / image.attrib["src"], image.attrib.get("alt", ""))
    elif element.tag == "table":
        _table(paper, element)
    elif element.tag == "ul":
        for item in element:
            _paragraph(paper, list(_runs(item)), bullet="•", after=0.8)
        paper.ln(2)
    elif element.tag == "blockquote":
        _note(paper, element)
    else:
        _paragraph(paper, list(_runs(element)))


def _runs(element: ElementTree.Element, style: str = "") -> Iterator[tuple[str, str]]:
    """The text of an element as pieces of one style each, white space as a browser would have it."""
    style = {"strong": "B", "em": "I", "code": "M"}.get(element.tag, style)
    if element.text:
        yield style, " ".join(element.text.split("\n"))
    for child in element:
        yield from _runs(child, style)
        if child.tail:
            yield style, " ".join(child.tail.split("\n"))


def _paragraph(paper: Paper, runs: Runs, bullet: str = "", after: float = 3) -> None:
    paper.set_x(MARGIN)
    if bullet:
        paper.set_font(FACE, "", TEXT_SIZE)
        paper.cell(5, LINE, bullet)
        paper.set_left_margin(MARGIN + 5)
    for style, text in runs:
        if style == "M":
            paper.set_font(f"{FACE}Mono", "", TEXT_SIZE - 1)
        else:
            paper.set_font(FACE, style, TEXT_SIZE)
        paper.write(LINE, text)
    paper.set_left_margin(MARGIN)
    paper.ln(LINE + after)


def _heading(paper: Paper, element: ElementTree.Element) -> None:
    size = HEADINGS[element.tag]
    if paper.get_y() > paper.h - 3 * MARGIN:  # a heading alone at the foot of a page
        paper.add_page()
    paper.ln(0 if element.tag == "h1" else 3)
    paper.set_font(FACE, "B", size)
    paper.multi_cell(0, size * 0.5, "".join(element.itertext()), new_x="LMARGIN", new_y="NEXT", align="L")
    paper.ln(2.5)


def _note(paper: Paper, element: ElementTree.Element) -> None:
    """A paragraph on a coloured ground."""
    paper.set_font(FACE, "", TEXT_SIZE)
    paper.set_fill_color(*NOTE_COLOR)
    text = "\n".join(
        "".join(f"**{text}**" if style == "B" else text for style, text in _runs(child)) for child in element
    )
    paper.multi_cell(0, LINE, text, fill=True, padding=2.5, markdown=True, new_x="LMARGIN", new_y="NEXT", align="L")
    paper.set_fill_color(255)
    paper.ln(3)


def _table(paper: Paper, element: ElementTree.Element) -> None:
    rows = [["".join(cell.itertext()).strip() for cell in row] for row in element.iter("tr")]
    paper.set_font(FACE, "", TABLE_SIZE)
    paper.set_draw_color(RULE_COLOR)
    # A column is as wide as its longest cell, up to 55 mm; what is left over stays free.
    widths = [
        min(55.0, max(paper.get_string_width(row[column]) for row in rows) * 1.12 + 5) for column in range(len(rows[0]))
    ]
    scale = min(1.0, paper.epw / sum(widths))
    widths = [width * scale for width in widths]
    with paper.table(
        rows,
        col_widths=widths,
        width=min(sum(widths), paper.epw),  # the sum may be a rounding error wider
        align="LEFT",
        text_align="LEFT",
        line_height=4.6,
        borders_layout=TableBordersLayout.HORIZONTAL_LINES,
        headings_style=FontFace(emphasis="BOLD"),
    ):
        pass
    paper.set_draw_color(0)
    paper.ln(4)


def _picture(paper: Paper, path: Path, caption: str) -> None:
    """A picture as wide as the text at most, with its caption, on one page."""
    from PIL import Image

    with Image.open(path) as image:
        pixels_wide, pixels_high = image.size
    width = min(paper.epw, pixels_wide / 110 * 25.4 * 0.9)  # drawn with 110 dots an inch
    height = width * pixels_high / pixels_wide
    most = paper.eph - 15 if height > 1.2 * width else MOST_HEIGHT
    width, height = (width * most / height, most) if height > most else (width, height)
    if paper.get_y() + height + 8 > paper.page_break_trigger:
        paper.add_page()
    paper.image(io.BytesIO(path.read_bytes()), x=MARGIN, w=width, h=height, alt_text=caption)
    paper.set_font(FACE, "I", CAPTION_SIZE)
    paper.multi_cell(0, 4.4, caption, new_x="LMARGIN", new_y="NEXT", align="L")
    paper.ln(4)
