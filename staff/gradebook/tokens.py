"""Python source as the tokens that two copies share: without names of its own, comments, layout and constants.

The source is only tokenised, never parsed further or run: it may be anybody's.
"""

from __future__ import annotations

import builtins
import io
import keyword
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass

LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
BUILT_IN = frozenset(dir(builtins))
OWN, NUMBER, TEXT = "x", "0", "s"  # what stands for a name that the file chose, a number, a text
# The parts of an f-string are tokens from Python 3.12 on; before, it is one text. Here it is one text everywhere.
F_START, F_END = getattr(tokenize, "FSTRING_START", -1), getattr(tokenize, "FSTRING_END", -1)
MOST_TOKENS = 200_000  # of one file; a graded module has about 1,500

Statement = list[tokenize.TokenInfo]


@dataclass(frozen=True)
class Token:
    """One token that counts: what it is compared as, and the line it starts in, from 1."""

    text: str
    line: int


def code_tokens(source: str) -> list[Token]:
    """The tokens of `source` up to the first place that is not Python."""
    statements = _statements(source)
    own = {name for statement in statements for name in _names_given(statement)}
    return [
        Token(_plain(statement, place, own), token.start[0])
        for statement in statements
        for place, token in enumerate(statement)
    ]


def _statements(source: str) -> list[Statement]:
    """The logical lines, each without layout and comments; lone texts (docstrings) are left out."""
    lines: list[Statement] = [[]]
    inside_text = 0
    try:
        for count, token in enumerate(tokenize.generate_tokens(io.StringIO(source).readline)):
            if count == MOST_TOKENS:
                break
            if token.type == tokenize.NEWLINE:
                lines.append([])
            elif token.type == F_START:
                if not inside_text:
                    lines[-1].append(token._replace(type=tokenize.STRING))
                inside_text += 1
            elif token.type == F_END:
                inside_text -= 1
            elif token.type not in LAYOUT and not inside_text:
                lines[-1].append(token)
    except (tokenize.TokenError, SyntaxError, ValueError):
        pass  # what came before the fault is compared; the grader judges the code
    return [line for line in lines if any(token.type != tokenize.STRING for token in line)]


def _names_given(statement: Statement) -> set[str]:
    """Names that a statement gives to something: assigned, parameters, functions, classes, loop variables, `as`."""
    texts = [token.string for token in statement]
    given = set(texts[: _end_of_targets(texts)])
    has_parameters = "def" in texts[:2] or "lambda" in texts
    in_loop_head = False
    for before, text, after in zip(["", *texts], texts, [*texts[1:], ""], strict=False):
        in_loop_head = (in_loop_head or before == "for") and text != "in"
        named = before in ("def", "class", "as", "lambda") or after in ("=", ":=")
        if named or in_loop_head or (has_parameters and before in ("(", ",", "*", "**")):
            given.add(text)
    return {name for name in given if name.isidentifier()}


def _end_of_targets(texts: Sequence[str]) -> int:
    """Place of the last `=` outside all brackets; everything before it is assigned to."""
    depth = end = 0
    for place, text in enumerate(texts):
        depth += (text in ("(", "[", "{")) - (text in (")", "]", "}"))
        if text == "=" and depth == 0:
            end = place
    return end


def _plain(statement: Statement, place: int, own: set[str]) -> str:
    """What a token is compared as. Names of libraries, keywords and built-in functions stay: a copy needs them too."""
    token = statement[place]
    if token.type == tokenize.NUMBER:
        return NUMBER
    if token.type == tokenize.STRING:
        return TEXT
    if token.type != tokenize.NAME or keyword.iskeyword(token.string):
        return token.string
    is_attribute = place > 0 and statement[place - 1].string == "."
    if token.string in own or not (is_attribute or token.string in BUILT_IN):
        return OWN
    return token.string
