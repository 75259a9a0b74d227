"""Markers: every way to break them is an error with file and line; stubs and their inverse."""

from __future__ import annotations

import ast

import pytest

from staff.release.starter import markers, recipe
from staff.release.starter.markers import read_graded

BEGIN, END = "    # BEGIN SOLUTION 1.0: do it\n", "    # END SOLUTION 1.0\n"
SHELL = 'def f(a):\n    """Doc."""\n{}    return a\n'

# body of f (its first line is line 3) or whole file, line that the message names, part of the message
BROKEN = {
    "no end": (BEGIN + "    a = 1\n", 3, "has no END"),
    "misspelled end": (BEGIN + "    a = 1\n    # END SOLUTON 1.0\n", 3, "has no END"),
    "no begin": ("    a = 1\n" + END, 4, "without a BEGIN"),
    "misspelled begin": ("    # BEGN SOLUTION 1.0: do it\n    a = 1\n" + END, 3, "malformed"),
    "nested": (BEGIN + BEGIN + "    a = 1\n" + END + END, 4, "BEGIN inside"),
    "empty": (BEGIN + END, 3, "empty solution"),
    "comments only": (BEGIN + "    # nothing\n\n" + END, 3, "empty solution"),
    "other number": (BEGIN + "    a = 1\n    # END SOLUTION 1.1\n", 5, "closes BEGIN SOLUTION 1.0"),
    "lower case": (BEGIN + "    a = 1\n    # End solution 1.0\n", 5, "malformed"),
    "no text": ("    # BEGIN SOLUTION 1.0:\n    a = 1\n" + END, 3, "malformed"),
    "behind code": ("    a = 1  # BEGIN SOLUTION 1.0: do it\n" + END, 3, "malformed"),
    "in a string": ('    a = """\n# BEGIN SOLUTION 1.0: do it\n"""\n', 3, "not a comment"),
    "quote in the text": ('    # BEGIN SOLUTION 1.0: say "x"\n    a = 1\n' + END, 3, "must not hold"),
    "bad replacement": ("    # BEGIN SOLUTION 1.0: do it -> a = (\n    a = 1\n" + END, 3, "does not parse"),
    "half a statement": (BEGIN + "    a = (1,\n" + END + "    2)\n", 4, "cuts the statement"),
    "end inside a loop": (
        BEGIN + "    for i in a:\n        a = 1\n" + END + "        a = 2\n",
        4,
        "cuts the statement",
    ),
    "out of a loop": (
        "    for i in a:\n        # BEGIN SOLUTION 1.0: do it\n        a = 1\n    a = 2\n        # END SOLUTION 1.0\n",
        6,
        "indented otherwise",
    ),
    "if and else": (
        "    if a:\n        # BEGIN SOLUTION 1.0: do it\n        a = 1\n"
        "    else:\n        a = 2\n        # END SOLUTION 1.0\n",
        7,
        "goes beyond its block",
    ),
    "end indented otherwise": (BEGIN + "    a = 1\n  # END SOLUTION 1.0\n", 5, "indented otherwise"),
    "docstring": (
        'def f():\n    # BEGIN SOLUTION 1.0: do it\n    """Doc."""\n' + END + "    return 1\n",
        3,
        "docstring",
    ),
    "signature": ("def f(\n" + BEGIN + "    a):\n" + END + "    return 1\n", 1, "cuts the statement"),
    "outside a function": ("# BEGIN SOLUTION 1.0: do it\na = 1\n# END SOLUTION 1.0\n", 1, "not inside a function"),
    "does not parse": ("def f(:\n", 1, "does not parse"),
    "null byte": ("a = 1\0\n", 1, "does not parse"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_markers_name_file_and_line(case):
    body, line, message = BROKEN[case]
    whole = body if body.startswith(("def ", "# ", "a = 1\0")) else SHELL.format(body)
    with pytest.raises(markers.MarkerError, match=message) as caught:
        markers.find_regions(whole, "graded.py")
    named = int(str(caught.value).split(":")[1])
    assert str(caught.value).startswith("graded.py:")
    # A cut statement is blamed on the marker that cuts it or on the statement; both stand in the message.
    assert named == line or f"line {line}" in str(caught.value)


def test_stub_keeps_what_is_outside_and_the_place_in_the_block():
    source = SHELL.format(
        "    if a:\n        # Hint: think.\n" + (BEGIN + "    a = 1\n" + END).replace("    ", " " * 8)
    )
    regions = markers.find_regions(source, "graded.py")
    stubbed = markers.strip_solutions(source, regions)
    stub = '        # Hint: think.\n        raise NotImplementedError("TODO 1.0: do it")\n    return a\n'
    assert stubbed == SHELL.format("").replace("    return a\n", "    if a:\n" + stub)
    assert markers.insert_solutions(stubbed, regions, "graded.py") == source


def test_replacement_line():
    source = SHELL.format("    # BEGIN SOLUTION 1.3: choose -> b = None\n    b = a + 1\n    # END SOLUTION 1.3\n")
    regions = markers.find_regions(source, "graded.py")
    assert "    b = None  # TODO 1.3: choose\n" in markers.strip_solutions(source, regions)


def test_stubs_out_of_order_or_missing_are_an_error():
    source = SHELL.format(BEGIN + "    a = 1\n" + END)
    regions = markers.find_regions(source, "graded.py")
    with pytest.raises(markers.MarkerError, match=r"stub of TODO 1\.0 is missing"):
        markers.insert_solutions(SHELL.format(""), regions, "graded.py")


def test_windows_line_ends_are_refused():
    with pytest.raises(markers.MarkerError, match="Windows"):
        markers.find_regions(SHELL.format(BEGIN + "    a = 1\n" + END).replace("\n", "\r\n"), "graded.py")


def test_every_signature_and_docstring_of_the_graded_files_stays():
    """Not only the round trip: names, arguments and docstrings are compared as syntax."""
    for item in read_graded(recipe.load("project2")):
        functions = [
            [
                (node.name, ast.dump(node.args), ast.get_docstring(node))
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.FunctionDef)
            ]
            for text in (item.original, item.starter)
        ]
        nested = set(functions[0]) - set(functions[1])
        assert set(functions[1]) <= set(functions[0])
        assert all(docstring is None for _name, _arguments, docstring in nested), "only helpers inside solutions go"
