"""Homework 5 for the staff: figures, answers and history as they are judged, the handout's dates, grading."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from staff.assignments.hw5.graded_tests.test_handed_in import ANSWERS, MIN_WORDS
from staff.grader import assignment as assignments
from staff.grader import other_work
from staff.grader.submission import read_submission
from staff.release.starter import recipe
from staff.release.starter.build import build

ROOT = Path(__file__).resolve().parents[3]
LAB = "labs/hw5_pneumonia"
CODE, EVALUATION = f"{LAB}/hw5_dl.py", f"{LAB}/hw5_evaluate.py"
RULES = assignments.load("hw5").history


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(content, format="PNG")
    return content.getvalue()


def gradient(height: int = 300, width: int = 400) -> np.ndarray:
    return np.broadcast_to(np.linspace(0, 255, width), (height, width))


def bomb() -> bytes:
    """A PNG of 100,000 x 100,000 pixels in a few hundred bytes."""
    header = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    chunk = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk + bytes(200)


def test_a_figure_is_a_figure():
    assert other_work.fault_of_figure(png(gradient())) == ""


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (png(np.full((300, 400), 255)), "is blank"),
        (png(gradient(40, 400)), "has 400 x 40 pixels"),
        (png(gradient())[:300], "is not a readable PNG"),
        (b"", "is not a readable PNG"),
        (b"GIF89a" + bytes(100), "is not a readable PNG"),
        (bomb(), "has 100000 x 100000 pixels|is not a readable PNG"),
    ],
    ids=["blank", "small", "cut short", "empty", "another format", "bomb"],
)
def test_what_is_no_figure(content, fault):
    assert re.match(fault, other_work.fault_of_figure(content))


def test_answers_are_found_wherever_comments_stand():
    source = 'x = "# ANSWER 1.1: no"\n    # ANSWER 1.2: one\n    # two\n# ANSWER 1.3: three\n\n# apart\ny = 1 # z\n'
    assert other_work.answers_in(source.replace("    #", "#")) == {"1.2": "one two", "1.3": "three"}
    assert other_work.answers_in("# ANSWER 2.1: kept\n)))(((\n") == {"2.1": "kept"}
    docstring = '"""One line.\n\nANSWER 1.2: in a\n  docstring\n\nmore\n"""\n# ANSWER 1.2: short\n'
    docstring += '"""ANSWER 2.2: q."""\n# Hint: no\n'
    assert other_work.answers_in(docstring) == {"1.2": "in a docstring", "2.2": "q."}
    assert "\x1b" not in other_work.answers_in("# ANSWER 2.1: a\x1b[31mb")["2.1"]


@pytest.mark.parametrize(
    "subject",
    [
        "Stop early on the validation loss",
        "Grad-CAM: weights and maps",
        "1.3 augmentation with rotation",
        "根据验证损失提前停止训练",
        "検証損失で早期終了する",
        "सत्यापन हानि पर जल्दी रुकें",
        "Dừng sớm theo mất mát kiểm định",
        "Остановка по потерям на проверке",
    ],
)
def test_clear_messages(subject):
    assert other_work.is_clear(subject)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "update",
        "final final version",
        "fix",
        "asdf asdf",
        "wip",
        "more work on hw5",
        "a b c d e f",
        "更新",
        "修改作业",
    ],
)
def test_messages_that_say_nothing(subject):
    assert not other_work.is_clear(subject)


def commit(folder: Path, subject: str, **files: str) -> None:
    for name, text in files.items():
        path = folder / {"code": CODE, "evaluation": EVALUATION, "notes": "notes.txt"}[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    identity = ["-c", "user.name=S", "-c", "user.email=s@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, "add", "-A"], check=True)
    message = ["commit", "-q", "--allow-empty-message", "-m", subject]
    subprocess.run(["git", "-C", folder, *identity, *message], check=True)


def repository(folder: Path, subjects: list[str], name: str = "code") -> Path:
    """A starter, and a commit with ten changed lines of one file for each subject."""
    folder.mkdir()
    subprocess.run(["git", "init", "-q", folder], check=True)
    commit(folder, "starter", code="x = 0\n" * 50)
    for number, subject in enumerate(subjects, 1):
        commit(folder, subject, **{name: f"x = {number}\n" * 10})
    return folder


CLEAR = ["Load the three splits", "Train with early stopping", "Grad-CAM by hand"]


@pytest.mark.parametrize(
    ("subjects", "name", "deductions"),
    [
        (CLEAR, "code", [0, 0]),
        (CLEAR[:1], "code", [5, 0]),
        (["update", "fix", "final"], "code", [0, 5]),
        ([*CLEAR, "fix"], "code", [0, 0]),  # one of four may say nothing
        (CLEAR, "notes", [5, 0]),  # no graded code in it
        ([], "code", [5, 5]),
    ],
    ids=["good", "one commit", "unclear", "mostly clear", "no code", "untouched"],
)
def test_history_is_judged(tmp_path, subjects, name, deductions):
    folder = repository(tmp_path / "work", subjects, name)
    log = read_submission(folder, {CODE: 10_000}).log
    verdicts = other_work.judge_history(other_work.read_history(log, [CODE]), RULES)
    assert [verdict["deduction"] for verdict in verdicts] == deductions
    assert all(verdict["reason"] for verdict in verdicts)


@pytest.mark.parametrize("kind", ["folder", "shallow"])
def test_a_history_that_is_not_available_costs_nothing_and_is_marked(tmp_path, kind):
    folder = repository(tmp_path / "work", ["update"])
    copy = tmp_path / "copy"
    if kind == "shallow":
        subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{folder}", copy], check=True)
    else:
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".git"))
    submission = read_submission(copy, {CODE: 10_000})
    results = {"todos": [], "score": 70.0}
    other_work.add_verdicts(results, submission, RULES)
    assert (results["todos"][0]["points"], results["score"]) == (0, 70.0)
    assert re.search("shallow" if kind == "shallow" else "no git repository", results["for_a_person"][0])


def test_questions_of_the_starter_are_no_answers():
    made = build(recipe.load("hw5", ROOT)).files
    for name in ("hw5_dl.py", "hw5_evaluate.py"):
        answers = other_work.answers_in(made[f"{LAB}/{name}"].decode())
        assert {number: text for number, text in answers.items() if len(text.split()) >= MIN_WORDS} == {}


# One plausible mistake for each TODO; all of them in one submission, so that one run shows each of them to be found.
MISTAKES = {
    CODE: [
        ("1.1", "shuffle=training", "shuffle=False"),
        ("1.2", "minlength=len(class_names)).tolist()", "minlength=len(class_names)).tolist()[::-1]"),
        ("1.3", "return (rotated * gain", "return (images * gain"),
        ("2.1", "                nn.ReLU(),\n                nn.MaxPool2d(2),", "                nn.MaxPool2d(2),"),
        ("2.2", "                optimizer.zero_grad()\n", ""),
        ("2.3", "1 + int(np.argmin(validation))", "int(np.argmin(validation))"),
        ("3.1", "old.weight.sum(dim=1, keepdim=True)", "old.weight.mean(dim=1, keepdim=True)"),
        ("3.2", "learning_rate / 10", "learning_rate"),
    ],
    EVALUATION: [
        ("3.3", '[row] + [""] * (len(names) - 1)', '["0.900"] * len(names)'),
        ("4.1", "called = (probabilities >= threshold)", "called = (probabilities > threshold)"),
        ("4.2", "metrics.average_precision_score(labels, values)", "metrics.roc_auc_score(labels, values)"),
        ("4.3", "np.argsort(-np.abs(probabilities - threshold)", "np.argsort(np.abs(probabilities - threshold)"),
        ("5.1", "weights = first.weight.detach().float().cpu()", "weights = first.weight.detach().float().cpu() * 2"),
        ("5.2", "gradient.mean(dim=(2, 3), keepdim=True)", "gradient.abs().mean(dim=(2, 3), keepdim=True)"),
        ("6.1", "# ANSWER 6.1:", "# 6.1:"),
    ],
}
FULL_LOSS = set("1.2 2.2 2.3 3.1 3.2 3.3 4.1 4.2 4.3 5.1 5.2".split())  # in the others something works


def grade(folder: Path, out: Path) -> dict:
    command = [sys.executable, "-m", "staff.grade", str(folder), "--assignment", "hw5", "--out", str(out), "--quiet"]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(out.read_text(encoding="utf-8"))


def solution(changes: dict[str, list[tuple[str, str, str]]]) -> dict[str, str]:
    """The graded files with some of their text changed."""
    texts = {}
    for name in (CODE, EVALUATION):
        texts[name] = (ROOT / name).read_text(encoding="utf-8")
        for todo, old, new in changes.get(name, []):
            assert texts[name].count(old) == 1, f"{todo}: {old!r} occurs {texts[name].count(old)} times"
            texts[name] = texts[name].replace(old, new)
    return texts


# TODO 2.2 and 3.2 as someone writes them who has read the handout and a tutorial: two loops, a counter for early
# stopping, zero_grad after the step, results that are tensors; freezing by hand.
PLAIN_TRAIN = """def train(model, train_loader, val_loader, epochs=30, learning_rate=1e-3, patience=8):
    device = next(model.parameters()).device
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    best, waited = float("inf"), 0
    for epoch in range(epochs):
        model.train()
        total, correct, count = 0, 0, 0
        for X, y in train_loader:
            X, y = X.to(device), y.to(device)
            pred = model(X)
            loss = loss_fn(pred, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach() * X.size(0)
            correct += (pred.argmax(1) == y).sum()
            count += X.size(0)
        history["train_loss"].append(total / count)
        history["train_acc"].append(correct / count)
        model.eval()
        total, correct, count = 0, 0, 0
        with torch.no_grad():
            for X, y in val_loader:
                X, y = X.to(device), y.to(device)
                pred = model(X)
                total += loss_fn(pred, y) * X.size(0)
                correct += (pred.argmax(1) == y).sum()
                count += X.size(0)
        history["val_loss"].append(total / count)
        history["val_acc"].append(correct / count)
        if history["val_loss"][-1] < best:
            best, waited = history["val_loss"][-1], 0
            best_weights = {k: v.clone() for k, v in model.state_dict().items()}
        else:
            waited += 1
            if waited >= patience:
                break
    model.load_state_dict(best_weights)
    return history


"""
PLAIN_FINE_TUNE = """def fine_tune(
    model, train_loader, val_loader, head_epochs=2, epochs=10, learning_rate=1e-3, patience=8
):
    for p in model.parameters():
        p.requires_grad = False
    for p in last_linear(model)[1].parameters():
        p.requires_grad = True
    h1 = train(model, train_loader, val_loader, epochs=head_epochs, learning_rate=learning_rate, patience=patience)
    for p in model.parameters():
        p.requires_grad = True
    h2 = train(model, train_loader, val_loader, epochs=epochs, learning_rate=learning_rate / 10, patience=patience)
    # ANSWER 3.2: Fine-tuning needs fewer epochs than from scratch and its best validation loss is lower in every seed.
    return {k: h1[k] + h2[k] for k in h1}


"""


def plain(texts: dict[str, str]) -> dict[str, str]:
    """The reference with these two answers instead of its own."""
    code = texts[CODE]
    code = code[: code.index("def train(")] + PLAIN_TRAIN + code[code.index("def plot_training(") :]
    code = code[: code.index("def fine_tune(")] + PLAIN_FINE_TUNE + code[code.index("if __name__ ==") :]
    return {**texts, CODE: code}


@pytest.mark.timeout(280)
@pytest.mark.parametrize("written", [dict, plain], ids=["the reference", "a plain answer"])
def test_a_right_submission_gets_every_point(tmp_path, written):
    folder = repository(tmp_path / "work", CLEAR)
    outputs = folder / LAB / "outputs"
    outputs.mkdir()
    for name in assignments.load("hw5").files:
        if name.endswith(".png"):
            (folder / name).write_bytes(png(gradient()))
    texts = written(solution({}))
    commit(folder, "Figures of the full run, and answers", code=texts[CODE], evaluation=texts[EVALUATION])
    found = grade(folder, tmp_path / "results.json")
    failed = [check["test"] for todo in found["todos"] for check in todo["checks"] if check["status"] != "passed"]
    assert failed == []
    assert found["score"] == 100
    assert set(found["answers"]) == set(ANSWERS)


@pytest.mark.timeout(280)
def test_each_mistake_costs_points(tmp_path):
    for name, text in solution(MISTAKES).items():
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / name).write_text(text, encoding="utf-8")
    found = {todo["id"]: todo for todo in grade(tmp_path / "work", tmp_path / "results.json")["todos"]}
    for todo in [todo for changes in MISTAKES.values() for todo, _old, _new in changes]:
        mechanisms = [check for check in found[todo]["checks"] if "test_figure" not in check["test"]]
        assert any(check["status"] == "failed" for check in mechanisms), f"the mistake in {todo} was not found"
        if todo in FULL_LOSS:
            assert found[todo]["points"] == 0, f"{todo} earns {found[todo]['points']} with its mistake"
    assert found["git"]["points"] == 0  # a folder without a history: for a person
