"""predict_onnx: runs without torch, answers like the network it was made from, and says what is wrong in one line."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from labs.medmnist_experiments import int8_onnx, predict_onnx
from toolkit.errors import UserError
from toolkit.medmnist_data import locate

onnx = pytest.importorskip("onnx", reason="onnx is not installed (requirements-dev.txt)")

ROOT = Path(__file__).resolve().parents[3]
FACTS = predict_onnx.Facts(("a", "b"), channels=1, size=28, dimensions=2, mean=0.5, deviation=0.5)


def script(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The script as a process."""
    words = [sys.executable, "-m", "labs.medmnist_experiments.predict_onnx", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_torch_is_not_imported(quantized: SimpleNamespace) -> None:
    # A fresh process in which torch cannot be imported at all, and which lists what was.
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from labs.medmnist_experiments import predict_onnx\n"
        "predict_onnx.main(sys.argv[1:])\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    words = [sys.executable, "-c", code, quantized.folder / "model.onnx", quantized.folder / "examples"]
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *lines, modules = done.stdout.splitlines()
    assert len(lines) == 8
    heavy = {"torchvision", "torchao", "onnx", "onnxscript", "medmnist", "sklearn", "matplotlib", "scipy", "pandas"}
    assert not heavy & set(json.loads(modules.replace("'", '"')))


def test_answers_are_those_of_the_network_on_the_same_pixels(quantized: SimpleNamespace, tmp_path: Path) -> None:
    val = locate("breastmnist").read("val")
    images = val.images[:5].numpy()
    for number, image in enumerate(images):
        Image.fromarray(image[0]).save(tmp_path / f"{number}.png")
        np.save(tmp_path / f"{number}.npy", image[0])
    model = quantized.folder / "models" / "seed0" / "float32.onnx"
    done = script(model, tmp_path, "--format", "csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 10
    expected = int8_onnx.run_session(int8_onnx.open_session(model, 1), (images / 127.5 - 1).astype(np.float32))
    names = ["malignant", "normal, benign"]
    for row in rows:
        found = [float(row[name]) for name in names]
        wanted = expected[int(Path(row["path"]).stem)]
        assert found == pytest.approx(wanted, abs=2e-5)
        assert row["class"] == names[int(wanted.argmax())]


def test_formats_agree(quantized: SimpleNamespace) -> None:
    words = (quantized.folder / "model.onnx", quantized.folder / "examples")
    answers = json.loads(script(*words, "--format", "json").stdout)
    table = script(*words).stdout.splitlines()
    for answer, line in zip(answers, table, strict=True):
        assert line.startswith(answer["path"])
        assert f"{max(answer['probabilities'].values()):.3f}" in line
        assert answer["class"] in line


def test_pictures_are_cut_to_the_middle_and_resized(tmp_path: Path) -> None:
    pixels = np.zeros((56, 100), dtype=np.uint8)
    pixels[:, 22:78] = 200  # the middle square
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (predict_onnx.read(tmp_path / "wide.png", FACTS) == 200).all()
    Image.fromarray(np.stack([pixels] * 3, axis=-1)).save(tmp_path / "color.png")
    assert predict_onnx.read(tmp_path / "color.png", FACTS).shape == (1, 28, 28)
    in_color = predict_onnx.Facts(("a", "b"), channels=3, size=28, dimensions=2, mean=0.5, deviation=0.5)
    assert predict_onnx.read(tmp_path / "wide.png", in_color).shape == (3, 28, 28)


def test_volumes(tmp_path: Path) -> None:
    facts = predict_onnx.Facts(("a", "b"), channels=1, size=6, dimensions=3, mean=0.5, deviation=0.5)
    np.save(tmp_path / "volume.npy", np.ones((6, 6, 6), dtype=np.uint8))
    assert predict_onnx.read(tmp_path / "volume.npy", facts).shape == (1, 6, 6, 6)
    Image.new("L", (6, 6)).save(tmp_path / "image.png")
    with pytest.raises(UserError, match="takes volumes"):
        predict_onnx.read(tmp_path / "image.png", facts)


def bad_images(folder: Path) -> dict[str, str]:
    """Files that cannot be taken, and what is to be said of them."""
    generator = np.random.default_rng(0)
    (folder / "text.png").write_text("hello")
    Image.fromarray(generator.integers(0, 255, (40, 40), dtype=np.uint8)).save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:700])
    (folder / "empty.png").touch()
    Image.fromarray(generator.integers(0, 4000, (28, 28), dtype=np.uint16)).save(folder / "deep.png")
    frames = [Image.new("L", (28, 28)) for _ in range(2)]
    frames[0].save(folder / "frames.tif", save_all=True, append_images=frames[1:])
    np.save(folder / "float.npy", np.zeros((28, 28)))
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    return {
        "text.png": "not an image",
        "cut.png": "broken image",
        "empty.png": "the file is empty",
        "deep.png": "8 bits",
        "frames.tif": "2 frames",
        "float.npy": "takes uint8",
        "objects.npy": "not an array",
        "missing.png": "No such file",
    }


def test_bad_images_are_named_and_cost_no_other_answer(quantized: SimpleNamespace, tmp_path: Path) -> None:
    told = bad_images(tmp_path)
    (tmp_path / "._whole.png").write_bytes(b"\0\5\x16\7" + b"\0" * 100)  # what macOS puts next to a file
    done = script(quantized.folder / "model.onnx", tmp_path, tmp_path / "missing.png", "--format", "csv")
    assert done.returncode == 3
    rows = {Path(row["path"]).name: row for row in csv.DictReader(io.StringIO(done.stdout))}
    assert set(rows) == {*told, "whole.png"}
    for name, reason in told.items():
        assert reason in rows[name]["error"]
        assert rows[name]["class"] == ""
    assert rows["whole.png"]["class"]
    assert "1 images predicted, 8 could not be read" in done.stderr
    assert "1 hidden" in done.stderr
    assert "Traceback" not in done.stderr


def test_orientation_and_transparency_are_those_of_the_one_reader(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28), dtype=np.uint8)
    pixels[:14] = 200
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees to the right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(predict_onnx.read(tmp_path / "turned.png", FACTS)[0], np.rot90(pixels, -1))
    opacity = np.where(pixels, 0, 255).astype(np.uint8)  # the bright half cannot be seen
    Image.fromarray(np.dstack([pixels, opacity]), "LA").save(tmp_path / "clear.png")
    assert predict_onnx.read(tmp_path / "clear.png", FACTS).max() == 0


def test_a_folder_without_an_image_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image in"):
        predict_onnx.find_images([str(tmp_path / "empty")])


def test_bad_models_are_named(quantized: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    model = onnx.load(str(quantized.folder / "model.onnx"))
    onnx.helper.set_model_props(model, {})
    onnx.save(model, str(tmp_path / "silent.onnx"))
    onnx.helper.set_model_props(model, {predict_onnx.FACTS: '{"class_names": 3}'})
    onnx.save(model, str(tmp_path / "damaged.onnx"))
    cases = {
        "text": "not a model",
        "silent": "does not say",
        "damaged": "metadata is damaged",
        "missing": "no such file",
    }
    for name, said in cases.items():
        with pytest.raises(UserError, match=said):
            predict_onnx.open_model(str(tmp_path / f"{name}.onnx"), 1)


def test_mistakes_are_one_line_and_exit_2(quantized: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("hello")
    for words in ((ROOT / "README.md", tmp_path), (quantized.folder / "model.onnx", tmp_path), ("--format", "xml")):
        done = script(*words)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""


def test_a_missing_runtime_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install onnxruntime"):
        predict_onnx.main(["model.onnx", "image.png"])
