"""Sizes and imports of all Python files: short functions and files, imports at the top, `args` in main alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from staff.tests.grading_tools import ROOT

# As students write.
OTHERS_WROTE = ("staff/quality/submissions", "staff/assignments/hw5/bank", "staff/tests/legacy_submission")
FOLDERS = ("toolkit", "labs", "bench", "tests", "staff")
MOST_LINES, MOST_OF_FUNCTION, MOST_OF_MAIN = 350, 40, 80
# What takes long to import, and --help can do without.
HEAVY = {"torch", "torchvision", "matplotlib", "sklearn", "optuna", "onnxruntime"}
# Packages that requirements.txt does not have, and modules that not every system has.
OPTIONAL = {"captum", "medmnist", "selenium", "submitit", "tensorboard", "weasyprint", "fcntl", "pty", "resource"}
# Scripts that answer --help before the modules that need torch are imported, and a check of what is installed.
SCRIPTS = {
    "check_installation.py",
    "classification_main.py",
    "segmentation_main.py",
    "labs/image_classifier/evaluate.py",
    "labs/image_classifier/predict.py",
    "labs/image_classifier/train.py",
    "labs/pathmnist_resnet18/src/job.py",
    "labs/pathmnist_resnet18/src/pathmnist_resnet18.py",
    "staff/grader/hidden.py",  # torch only for data that the trusted process draws
    "staff/quality/judges.py",  # imports the modules of the copy that it has entered
    "staff/quality/attacks/run.py",
    "staff/student_side/operations.py",  # what is provided is in the submission's tree
    "toolkit/submission.py",  # nothing heavy before the time limit of the student's code begins
    "toolkit/study.py",  # torch only for trainings, not for reading their results
}
MOST_LATE, MOST_ARGS = 85, 12
LONG_FILES = {"check_installation.py"}  # one file that a Python too old for the course can read


def ours() -> Iterator[tuple[str, str]]:
    """(name, text) of every Python file that we wrote."""
    paths = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(OTHERS_WROTE):
            yield name, path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def files() -> dict[str, tuple[str, ast.Module]]:
    return {name: (text, ast.parse(text)) for name, text in ours()}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without those of the docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def late_imports(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, package or module) of each import inside a function."""
    nodes = {node for function in functions(tree) for node in ast.walk(function)}
    imports = [(node, node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    imports += [(node, node.names[0].name) for node in nodes if isinstance(node, ast.Import)]
    return sorted((node.lineno, module or "") for node, module in imports)


def test_functions_and_files_are_short(files):
    long = [
        f"{name}: {text.count(chr(10))} lines" for name, (text, _) in files.items() if text.count("\n") > MOST_LINES
    ]
    assert [line for line in long if line.split(":")[0] not in LONG_FILES] == []
    found = [
        f"{name}:{function.lineno} {function.name}: {length(function)} lines"
        for name, (_, tree) in files.items()
        for function in functions(tree)
        if length(function) > (MOST_OF_MAIN if function.name == "main" else MOST_OF_FUNCTION)
    ]
    assert found == []


def test_imports_are_at_the_top(files):
    found = {name: late_imports(tree) for name, (_, tree) in files.items()}
    late = [(name, line, module) for name, several in found.items() for line, module in several]
    wrong = [
        f"{name}:{line} {module}"
        for name, line, module in late
        if module.partition(".")[0] not in HEAVY | OPTIONAL and name not in SCRIPTS
    ]
    assert wrong == []
    assert len(late) <= MOST_LATE


def test_args_end_in_main(files):
    found = [
        f"{name}:{function.lineno} {function.name}"
        for name, (_, tree) in files.items()
        for function in functions(tree)
        if any(argument.arg == "args" for argument in (*function.args.args, *function.args.kwonlyargs))
    ]
    assert len(found) <= MOST_ARGS, found


def first_spellings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, flag) of each call of add_argument that makes a long flag; further spellings are for older scripts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from ((node.lineno, text) for text in [text for text in texts if str(text).startswith("--")][:1])


def test_flags_are_spelled_with_underscores(files):
    found = [
        f"{name}:{line} {flag}"
        for name, (_, tree) in files.items()
        if not name.startswith("tests/")
        for line, flag in first_spellings(tree)
        if "-" in flag[2:]
    ]
    assert found == []


def test_the_rules_see_what_they_forbid():
    text = ("def f(args):", "    'One", "    two.'", "    import json", "    from toolkit import runs", "    return 1")
    tree = ast.parse("\n".join(text).replace("'", chr(34) * 3))
    assert late_imports(tree) == [(4, "json"), (5, "toolkit")]
    assert length(tree.body[0]) == 4
