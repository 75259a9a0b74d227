"""Quantization: weights against the formula, runtimes against each other, figures and choices, the script's files."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labs.medmnist_experiments import int8_onnx, int8_torch, quantize, quantize_report, variants
from labs.medmnist_experiments.networks import ConvNet
from labs.medmnist_experiments.tasks import CLASSES, Task
from toolkit.errors import UserError
from toolkit.medmnist_data import Split, locate
from toolkit.runs import read_json

onnx = pytest.importorskip("onnx", reason="onnx is not installed (requirements-dev.txt)")

ROOT = Path(__file__).resolve().parents[3]
IMAGES = torch.randn(32, 1, 12, 12, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small network in which BatchNorm does something and weights differ in size from channel to channel."""
    torch.manual_seed(0)
    model = ConvNet(2, 1, 3, ((4,), (6,)))
    for _ in range(3):
        model(IMAGES)  # training mode: statistics move
    for parameter in model.parameters():
        parameter.data *= torch.rand(len(parameter), *[1] * (parameter.dim() - 1)) * 2 + 0.2
    return model.eval()


@pytest.fixture(scope="module")
def folded(network: nn.Module) -> nn.Module:
    """The same without BatchNorm."""
    return int8_torch.fold_batchnorm(network)


@pytest.fixture(scope="module")
def folder(folded: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float32.onnx of the small network."""
    path = tmp_path_factory.mktemp("onnx")
    int8_onnx.export(folded, IMAGES[:2], path / "float32.onnx")
    return path


def integer_weights(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """name → (int8 weights, their scales) of the layers in a QDQ file."""
    graph = onnx.load(str(path)).graph
    known = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in known]
    pairs = {node.input[0]: (known[node.input[0]], known[node.input[1]]) for node in nodes}
    return {name: pair for name, pair in pairs.items() if pair[0].dtype == np.int8 and pair[0].ndim > 1}


def check_weights(
    folded: nn.Module, found: dict[str, tuple[np.ndarray, np.ndarray]], most: float, least_scale: float = 0.0
) -> None:
    """int8 weights are round(w / scale), and the scale of a channel is its largest weight over 127 (or 127.5)."""
    layers = [module for module in folded.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(found) == len(layers)
    for layer, (integers, scales) in zip(layers, found.values(), strict=True):
        weights = layer.weight.detach().numpy()
        weights = weights if weights.shape == integers.shape else weights.T
        axis = next(axis for axis, length in enumerate(integers.shape) if length == scales.size)
        largest = np.abs(weights).max(axis=tuple(a for a in range(weights.ndim) if a != axis))
        assert scales == pytest.approx(np.maximum(largest / most, least_scale), rel=1e-4)
        shape = [-1 if a == axis else 1 for a in range(weights.ndim)]
        assert np.abs(integers * scales.reshape(shape) - weights).max() <= 0.501 * scales.max()


def test_folding_leaves_the_function_alone(network: nn.Module, folded: nn.Module) -> None:
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(IMAGES), network(IMAGES), rtol=1e-5, atol=1e-6)


def test_weights_moved_are_counted_in_steps_of_int8(folded: nn.Module) -> None:
    student = int8_torch.QuantizationAware(folded, IMAGES[:2])
    assert int8_torch.steps_moved(folded, student) == {"mean": 0.0, "largest": 0.0}
    name, weight = next((n, w) for n, w in student.graph.named_parameters() if w.dim() > 1)
    step = dict(folded.named_parameters())[name][0].abs().max().item() / 127
    with torch.no_grad():
        weight[0].flatten()[0] += 3 * step
    assert int8_torch.steps_moved(folded, student)["largest"] == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize("count", [1, 7, 32])
def test_exported_file_answers_like_torch_for_any_batch(folded: nn.Module, folder: Path, count: int) -> None:
    session = int8_onnx.open_session(folder / "float32.onnx", 1)
    found = int8_onnx.run_session(session, IMAGES[:count].numpy(), batch_size=5)
    with torch.inference_mode():
        expected = folded(IMAGES[:count]).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_exported_file_holds_no_path_of_this_machine(folder: Path) -> None:
    content = (folder / "float32.onnx").read_bytes()
    assert str(ROOT).encode() not in content
    assert b"site-packages" not in content


def test_onnx_weights_follow_the_formula(folded: nn.Module, folder: Path) -> None:
    for method in int8_onnx.CALIBRATIONS:
        path = folder / f"{method}.onnx"
        int8_onnx.quantize_static(folder / "float32.onnx", path, IMAGES.numpy(), method)
        check_weights(folded, integer_weights(path), 127)
    seven_bits = folder / "seven.onnx"
    int8_onnx.quantize_static(folder / "float32.onnx", seven_bits, IMAGES.numpy(), reduce_range=True)
    assert max(int(np.abs(integers).max()) for integers, _scales in integer_weights(seven_bits).values()) <= 64


def test_dynamic_quantization_takes_every_layer(folder: Path) -> None:
    path = folder / "dynamic.onnx"
    int8_onnx.quantize_dynamic(folder / "float32.onnx", path)
    assert sorted(int8_onnx.integer_layers(path)) == ["ConvInteger"] * 2 + ["MatMulInteger"] * 2


def test_calibration_keeps_the_closest(folder: Path) -> None:
    settings = {"reduce_range": False, "threads": 1}
    found = variants.choose_calibration(
        folder, IMAGES.numpy(), IMAGES.numpy(), tuple(int8_onnx.CALIBRATIONS), **settings
    )
    assert set(found) == set(int8_onnx.CALIBRATIONS)
    assert list(found.values()) == sorted(found.values())
    assert not list(folder.glob("static-*"))
    reference, chosen = (int8_onnx.open_session(folder / f"{name}.onnx", 1) for name in ("float32", "static"))
    difference = int8_onnx.run_session(reference, IMAGES.numpy()) - int8_onnx.run_session(chosen, IMAGES.numpy())
    assert np.abs(difference).mean() == pytest.approx(next(iter(found.values())), abs=1e-6)


def test_pt2e_weights_follow_the_formula_and_run_everywhere_alike(folded: nn.Module, tmp_path: Path) -> None:
    graph = int8_torch.post_training(folded, IMAGES.split(16))
    int8_onnx.export(graph, IMAGES[:2], tmp_path / "int8.onnx")
    check_weights(folded, integer_weights(tmp_path / "int8.onnx"), 127.5, least_scale=2**-12)
    assert all(not tensor.is_floating_point() for tensor in graph.state_dict().values() if tensor.dim() > 1)
    with torch.inference_mode():
        expected = graph(IMAGES).softmax(dim=1)
    in_onnx = int8_onnx.run_session(int8_onnx.open_session(tmp_path / "int8.onnx", 1), IMAGES.numpy())
    np.testing.assert_allclose(in_onnx, expected.numpy(), atol=2e-2)  # a value between two steps may round either way
    assert np.abs(in_onnx - expected.numpy()).mean() < 2e-3
    if int8_torch.can_lower():
        fast = int8_torch.run_graph(int8_torch.lower(graph, IMAGES[:10]), IMAGES, 10)  # 32 images: the last batch has 2
        torch.testing.assert_close(fast, expected, atol=2e-2, rtol=0)
    int8_torch.save_program(graph, IMAGES, tmp_path / "int8.pt2")
    loaded = torch.export.load(tmp_path / "int8.pt2").module()
    torch.testing.assert_close(loaded(IMAGES).softmax(dim=1), expected)


def test_aware_training_rounds_learns_and_holds_its_ranges(folded: nn.Module) -> None:
    student = int8_torch.QuantizationAware(folded, IMAGES)
    labels = torch.arange(32) % 3
    with torch.no_grad():
        wanted = folded(IMAGES)
        logits = student(IMAGES)
        assert student.distance(logits, labels) == F.mse_loss(logits, wanted)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(student.train()(IMAGES), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.no_grad():
        assert torch.equal(folded(IMAGES), wanted)  # the teacher does not learn along
    before = {name: value.clone() for name, value in student.eval().state_dict().items()}
    with torch.inference_mode():
        rounded = student(100 * IMAGES)  # values that no training image had
        answers = student(IMAGES)
    assert rounded.isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    again = int8_torch.QuantizationAware(folded, IMAGES)
    again.load_state_dict(before)
    assert torch.equal(again.eval()(IMAGES), answers)
    with torch.inference_mode():
        torch.testing.assert_close(again.converted()(IMAGES), answers, atol=0.03, rtol=0)


def test_rounds_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count()
    monkeypatch.setattr(variants.time, "perf_counter", lambda: now_is[0])
    now_is, calls = [0.0], []

    def step(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls.append(name)
            now_is[0] += seconds * (1 + next(now) // 30)  # the machine gets slower; the ratio stays

        return run

    times = variants.interleaved({"a": step("a", 0.2), "b": step("b", 0.1)}, rounds=20)
    assert len(times["a"]) == len(times["b"]) == 20
    assert sorted(calls) == ["a"] * 23 + ["b"] * 23
    assert calls[-2:] != calls[-4:-2]  # each round begins with another one
    assert [one / two for one, two in zip(times["a"], times["b"], strict=True)].count(pytest.approx(2)) >= 18


def fake_variant(runtime: str, kind: str, probabilities: np.ndarray, path: Path) -> variants.Variant:
    """A variant with given answers."""
    return variants.Variant(runtime, kind, path, lambda _images: probabilities, lambda _batch: None)


def test_figures_are_against_float32_of_the_same_runtime(tmp_path: Path) -> None:
    labels = torch.tensor([0, 0, 1, 1])
    split = Split(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), labels)
    right = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]], dtype=np.float32)
    one_wrong = right.copy()
    one_wrong[1] = [0.4, 0.6]
    made = {
        seed: [
            fake_variant("ONNX Runtime", "float32", right, tmp_path),
            fake_variant("ONNX Runtime", "static", one_wrong, tmp_path),
            fake_variant("torch", "float32", one_wrong, tmp_path),
            fake_variant("torch", "static", right, tmp_path),
        ]
        for seed in (0, 1)
    }
    found = quantize_report.evaluate(made, split, Task(CLASSES, ("a", "b")))
    assert found["ONNX Runtime, static"]["points_lost"] == [25, 25]
    assert found["torch, static"]["points_lost"] == [-25, -25]
    assert found["torch, static"]["agreement"] == [0.75, 0.75]
    assert found["ONNX Runtime, float32"]["accuracy"] == [1, 1]
    assert found["ONNX Runtime, static"]["auc"] == [1, 1]


def test_choice_is_the_best_on_validation_and_the_simpler_of_equals() -> None:
    figures = {"ONNX Runtime, static": {"accuracy": [0.9, 0.8]}, "ONNX Runtime, qat": {"accuracy": [0.8, 0.9]}}
    assert quantize_report.choose(figures) == "ONNX Runtime, static"
    figures["ONNX Runtime, qat"]["accuracy"] = [0.85, 0.9]
    assert quantize_report.choose(figures) == "ONNX Runtime, qat"


def test_bars_are_held_against_static_and_qat() -> None:
    measured = {"times_faster": 1.69, "times_smaller": 3.5}
    table = {f"x, {kind}": {"kind": kind, **measured} for kind in ("float32", "dynamic", "static", "qat")}
    lost = {"x, static": {"points_lost": [0.4, 0.6]}, "x, qat": {"points_lost": [0.4, 0.1]}}
    found = {(one["variant"], one["what"]): one["met"] for one in quantize_report.bars(table, lost)}
    assert found == {
        ("x, static", "times faster"): False,
        ("x, static", "times smaller"): True,
        ("x, static", "points lost"): True,
        ("x, qat", "times faster"): False,
        ("x, qat", "times smaller"): True,
        ("x, qat", "points lost"): False,
    }
    table["x, static"]["times_faster"] = None  # no kernels on this processor: nothing is claimed
    assert ("x, static", "times faster") not in {
        (one["variant"], one["what"]) for one in quantize_report.bars(table, lost)
    }


def test_script_leaves_tables_models_and_examples(quantized: SimpleNamespace) -> None:
    folder, results = quantized.folder, read_json(quantized.folder / "results.json")
    assert [row["title"] for row in results["rows"]] == [
        f"{runtime}, {kind}" for runtime in ("ONNX Runtime", "torch") for kind in variants.KINDS
    ]
    for title, found in results["speed"].items():
        assert found["bytes"] == (folder / "models" / "seed0" / found["file"]).stat().st_size, title
    assert results["data"].startswith("breastmnist (official file")
    assert (folder / "model.onnx").read_bytes() in [
        (folder / "models" / "seed0" / f"{kind}.onnx").read_bytes() for kind in ("static", "qat")
    ]
    assert len(list((folder / "examples").glob("*.png"))) == quantize_report.EXAMPLES
    for name in ("speed.md", "table.md", "quantization.png", "choices.json"):
        assert (folder / name).stat().st_size > 0
    assert "QUICK RUN" in (folder / "speed.md").read_text(encoding="utf-8")


def test_a_slower_int8_is_said(quantized: SimpleNamespace) -> None:
    speed = read_json(quantized.folder / "results.json")["speed"]
    slower = [title for title, found in speed.items() if found["times_faster"] < 1]
    for title in slower:
        assert f"warning: {title} is " in quantized.stderr
    assert quantized.stderr.count("warning: ") == len(slower)


def test_every_variant_answers_like_its_float32(quantized: SimpleNamespace) -> None:
    val = locate("breastmnist").read("val")
    images = (val.images.float() / 127.5 - 1).numpy()
    models = quantized.folder / "models" / "seed0"
    reference = int8_onnx.run_session(int8_onnx.open_session(models / "float32.onnx", 1), images)
    for kind in ("dynamic", "static"):
        found = int8_onnx.run_session(int8_onnx.open_session(models / f"{kind}.onnx", 1), images)
        assert 0 < np.abs(found - reference).mean() < 0.02


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--flag", "chestmnist", "--data_root", "{empty}"], "chestmnist"),
        (["--latency_batch", "1"], "--latency_batch"),
        (["--calibration", "entropy"], "--calibration"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    words = [word.replace("{empty}", str(tmp_path)) for word in words]
    command = [
        sys.executable,
        "-m",
        "labs.medmnist_experiments.quantize",
        *words,
        "--output_dir",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MEDMNIST_MIRROR": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_several_labels_are_refused() -> None:
    source = SimpleNamespace(multi_label=True, flag="chestmnist")
    with pytest.raises(UserError, match="several labels"):
        quantize.single_label_task(source)


def test_missing_packages_are_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match="pip install onnx onnxscript onnxruntime"):
        int8_onnx.require("onnxscript")
    with pytest.raises(UserError, match="pip install no_such_package"):
        int8_onnx.require("no_such_package")


def test_what_stays_float32_is_said(quantized: SimpleNamespace) -> None:
    """Of float32 the convolutions; of the static file what its README section names, and no convolution."""
    found = read_json(quantized.folder / "results.json")
    assert any("Conv" in kind for kind in found["float32_operators"]["float32"])
    assert not any("Conv" in kind or kind == "Gemm" for kind in found["float32_operators"]["static"])
    assert 0 < found["qat_int8_steps_moved"][0]["mean"] < 5
