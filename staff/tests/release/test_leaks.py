"""A solution that is planted somewhere in a starter is found and named, however it is disguised within reason."""

from __future__ import annotations

import ast
import io
import json
import shutil
import textwrap

import numpy as np
import pytest

from staff.release.check_starter import all_proofs
from staff.release.starter import contents, leaks, recipe, release
from staff.release.starter.markers import read_graded
from staff.tests.release.tools import built, command, evidence

TRAIN = "classification_train.py"
SESSION_LINE = "    history, optimizer, device = session.history, session.optimizer, session.device\n"
LINE = "        total_loss += loss.item() * len(labels)\n"  # of the reference's train_epoch


def problems(sources, name, text):
    """Everything that the static proofs say about a starter in which the file `name` holds `text`."""
    made, loaded = built(sources), recipe.load("project2", sources)
    content = text.encode() if isinstance(text, str) else text
    found = made.files | {name: content}
    proofs = [
        contents.proves_release_file(found, made.commit, json.loads(found[release.RELEASE_FILE])),
        contents.proves_files(loaded, found, made.files),
        contents.proves_round_trip(found, read_graded(loaded)),
        contents.proves_no_leak({name: content}, evidence(sources), loaded.graded),
        contents.proves_no_markers(found, contents.machine_paths(loaded)),
        contents.proves_hidden_data(loaded, found),
    ]
    return [item for proof in proofs for item in proof.problems]


def leaks_in(sources, name, text):
    """What the proof of absence alone says about one file: the others are compared with their sources, too."""
    graded = recipe.load("project2", sources).graded
    return contents.proves_no_leak({name: text.encode()}, evidence(sources), graded).problems


def test_the_release_itself_is_clean(sources):
    found = built(sources).files
    record = json.loads(found[release.RELEASE_FILE])
    proofs = list(all_proofs(recipe.load("project2", sources), record, found, static=True))
    assert [str(proof) for proof in proofs if proof.problems] == []
    assert len(proofs) == 9


def test_the_evidence_is_there(sources):
    found = evidence(sources)
    assert len(found.exact) > 80
    assert len(found.renamed) > 15
    assert len(found.lines) > 80
    assert "total_loss+=loss.item()*len(labels)" in found.lines


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda text: text.replace(SESSION_LINE, LINE, 1),
            "solution line: total_loss +=",
        ),
        (lambda text: text + "\n\n" + LINE.strip().replace("loss.item()", "b") + "\n", "foreign line: total_loss += b"),
        (lambda text: text.replace("criterion = None  #", "criterion = nn.CrossEntropyLoss()  #"), "CrossEntropyLoss"),
        (lambda text: text.replace('raise NotImplementedError("TODO 1.4', 'return ("TODO 1.4'), "TODO 1.4 is missing"),
        (lambda text: text.replace("    # Hint: training mode", "    # Hint:  training mode"), "foreign line: # Hint:"),
        (lambda text: text + "    # END SOLUTION 1.4\n", "solution marker"),
    ],
    ids=["verbatim", "renamed", "replacement line", "no stub", "a blank more", "marker"],
)
def test_any_change_of_a_graded_file_is_named(sources, change, named):
    text = built(sources).files[TRAIN].decode()
    assert change(text) != text
    found = problems(sources, TRAIN, change(text))
    assert any(named in item and item.startswith(TRAIN) for item in found), found


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("dispatcher.py", "def f():\n" + LINE, "dispatcher.py:2: solution code of classification_train.py"),
        ("toolkit/plots.py", "def f():\n    # total_loss  +=  batch_loss*len( labels )\n    pass\n", "plots.py:2"),
        ("toolkit/plots.py", f'TEXT = """\n{LINE}"""\n', "plots.py:2: solution line"),
        ("configs/quick.json", '{"description": "total_loss += loss.item() * len(labels)"}', "quick.json:1"),
        ("README.md", "Try `total_loss += loss.item() * len(labels)`.\n", "README.md:1: solution line"),
        ("notes.bin", "\0total_loss += loss.item() * len(labels)", "notes.bin: holds"),
        ("toolkit/new.py", "def f(:\n", "toolkit/new.py:1: does not parse"),
    ],
    ids=["code", "comment", "string", "JSON", "Markdown", "binary", "no Python"],
)
def test_a_solution_in_another_file_is_named(sources, name, text, named):
    found = leaks_in(sources, name, text)
    assert any(named in item for item in found), found


def test_every_longer_line_of_the_solutions_is_found_in_a_text(sources):
    """Not one example but all of them, as a student would paste them into a note."""
    for item in read_graded(recipe.load("project2", sources)):
        for region in item.regions:
            for line in region.body.splitlines():
                if leaks.squeeze(line) in evidence(sources).lines:
                    assert leaks_in(sources, "README.md", f"> {line.strip()}\n"), line


class Renamed(ast.NodeTransformer):
    """Every variable with another name."""

    def visit_Name(self, node):
        return node if node.id in leaks.MODULE_NAMES else ast.Name(f"my_{node.id}_2", node.ctx)

    def visit_FunctionDef(self, node):
        node.name = f"my_{node.name}_2"
        return self.generic_visit(node)

    def visit_arg(self, node):
        node.arg = f"my_{node.arg}_2"
        return node


def test_code_with_all_variables_renamed_is_found(sources):
    """Every solution that is large enough to tell, in other words and without its comments, in a provided file."""
    found = []
    for item in read_graded(recipe.load("project2", sources)):
        for region in item.regions:
            tree = ast.parse(textwrap.dedent(region.body))
            if any(leaks.renamed(node) in evidence(sources).renamed for node in ast.walk(tree)):
                body = textwrap.indent(ast.unparse(Renamed().visit(tree)), "    ")
                named = leaks_in(sources, "toolkit/plots.py", f"def f():\n{body}\n")
                assert any("with other names" in problem for problem in named), region.body
                found.append(region.todo)
    assert {"1.2", "1.4", "1.5", "2.3", "2.6", "2.7"} <= set(found)


def test_a_name_that_only_the_solution_has_is_found(sources):
    telling = sorted(evidence(sources).telling_names)
    assert telling
    assert all(any(name in item for item in leaks_in(sources, "README.md", f"call it {name}\n")) for name in telling)


def test_what_everybody_writes_is_no_leak(sources):
    text = "model.train()\nfor images, labels in loader:\n    optimizer.zero_grad()\n    loss.backward()\n"
    ast.parse(text)
    assert leaks_in(sources, "toolkit/plots.py", text) == []


def test_files_that_do_not_belong_are_named(sources):
    for name in (
        "staff/grader/grade.py",
        "labs/hw5_pneumonia/hw5_dl.py",
        "bench/train.py",
        ".ci/run",
        "tests/labs/x.py",
    ):
        found = problems(sources, name, "")
        assert any(item.startswith(f"{name}: nothing from") for item in found), (name, found)
    assert any("not part of the release" in item for item in problems(sources, "toolkit/extra.py", ""))


def test_changed_provided_code_and_wrong_hashes_are_named(sources):
    text = built(sources).files["dispatcher.py"].decode()
    found = problems(sources, "dispatcher.py", text.replace("import", "import ", 1))
    assert any(item.startswith("dispatcher.py:") and "differs from its source" in item for item in found)
    assert any(item.startswith("dispatcher.py: its SHA-256") for item in found)


def test_held_back_images_are_found_under_any_name(sources):
    name = "data/bundled/pathmnist_sample.npz"
    ours = np.load(sources / name)
    tenth = np.load(sources / "data/bundled/pathmnist_official_test_tenth.npz")
    theirs = dict(np.load(io.BytesIO(built(sources).files[name])))
    planted = {"more_images": ours["test_images"][:1], "val2_images": tenth["test_images"][-1:]}
    for array, more in (*planted.items(), ("test_labels", ours["test_labels"])):
        buffer = io.BytesIO()
        np.savez(buffer, **theirs, **{array: more})
        found = problems(sources, name, buffer.getvalue())
        assert any("array" in item and array in item for item in found), found


def test_a_path_of_the_machine_is_found(sources):
    found = problems(sources, "README.md", f"see {sources}/README.md")
    assert any(f"holds the path {sources}" in item for item in found)


def test_check_starter_ends_with_1_and_names_the_planted_line(sources, tmp_path):
    folder = tmp_path / "starter"
    release.write_release(folder, built(sources).files)
    path = folder / TRAIN
    path.write_text(path.read_text().replace(SESSION_LINE, LINE, 1))
    result = command("staff.check_starter", folder, "--source", sources, "--static")
    assert result.returncode == 1, result.stdout + result.stderr
    number = path.read_text().split("\n").index(LINE.rstrip("\n")) + 1
    assert f"{TRAIN}:{number}: solution line: total_loss += loss.item() * len(labels)" in result.stdout
    shutil.rmtree(folder)
