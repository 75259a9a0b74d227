"""Weights are read in whichever usual form they were saved; what cannot be read says what it is and what to do."""

from __future__ import annotations

import argparse
import pathlib
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from toolkit.errors import UserError
from toolkit.weights import fit_weights, read_weights


def network(channels: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels))


MODEL = network()
WEIGHTS = MODEL.state_dict()
FORMS = {
    "weights alone": WEIGHTS,
    "DataParallel": {f"module.{name}": tensor for name, tensor in WEIGHTS.items()},
    "compiled, then DataParallel, in a dict": {"state_dict": {f"module._orig_mod.{n}": t for n, t in WEIGHTS.items()}},
    "averaged": torch.optim.swa_utils.AveragedModel(MODEL).state_dict(),
    "a tutorial's": {"epoch": 3, "model": WEIGHTS, "optimizer": torch.optim.Adam(MODEL.parameters()).state_dict()},
    "numpy and settings next to them": {
        **{"model_state_dict": WEIGHTS, "acc": np.float64(0.5), "best": np.float32(0.5), "n": np.int64(1)},
        **{"curve": np.arange(3.0), "folder": pathlib.Path("runs"), "args": argparse.Namespace(lr=0.1)},
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_usual_form_is_read(tmp_path, form):
    torch.save(FORMS[form], tmp_path / "c.pt")
    weights, content = read_weights(tmp_path / "c.pt")
    model = network()
    fit_weights(model, weights, "c.pt", "cnn")
    assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in model.state_dict().items())
    assert content.keys() == FORMS[form].keys()


def test_tensors_of_a_gpu_are_read_without_one(tmp_path):
    """The file that such a machine writes: the same, with the GPU's name where "cpu" stood."""
    torch.save(WEIGHTS, tmp_path / "cpu.pt")
    with zipfile.ZipFile(tmp_path / "cpu.pt") as old, zipfile.ZipFile(tmp_path / "gpu.pt", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                assert b"X\x03\x00\x00\x00cpu" in content
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            new.writestr(name.replace("cpu", "gpu"), content)
    weights, _ = read_weights(tmp_path / "gpu.pt")
    assert torch.equal(weights["0.weight"], WEIGHTS["0.weight"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "c.pt is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS, .* run git lfs pull"),
        (b"<!doctype html>", "c.pt is damaged, or no file of torch.save"),
        (MODEL, r"a whole pickled model .* torch.save\(model.state_dict\(\), 'c.pt'\)"),
        ({"model": MODEL}, "a whole pickled model"),
        ({"epoch": 3}, r"holds no weights \(epoch\); save weights alone"),
        (
            network(5).state_dict(),
            r"0.weight is \(5, 3, 3, 3\) in the file and \(4, 3, 3, 3\) in the code.*train again",
        ),
        (nn.Linear(2, 2).state_dict(), "7 of the code's names are not in the file .first: 0.weight.; 2 of the file's"),
    ],
)
def test_what_cannot_be_read_says_what_it_is(tmp_path, content, says):
    """One line, with the cure."""
    path = tmp_path / "c.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=says) as caught:
        fit_weights(network(), read_weights(path)[0], "c.pt", "cnn")
    assert "\n" not in str(caught.value)


def test_nothing_that_a_file_holds_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"model": WEIGHTS, "evil": Evil()}, tmp_path / "c.pt")
    with pytest.raises(UserError, match="which are not run"):
        read_weights(tmp_path / "c.pt")
