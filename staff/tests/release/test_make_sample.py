"""A bundled sample of a set that was not there before, and a starter on it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from staff.release import make_sample
from staff.release.starter import recipe
from staff.release.starter.build import build
from toolkit.errors import UserError

OFTEN = [40, 20, 8, 8, 8, 8, 4, 4]  # images of each of BloodMNIST's eight classes


@pytest.fixture
def run(own_sources, tmp_path, monkeypatch):
    """Run the tool on a small file of our own that has the layout of BloodMNIST."""
    rng, arrays = np.random.default_rng(0), {}
    for split in ("train", "val", "test"):
        labels = rng.permutation(np.repeat(np.arange(8, dtype=np.uint8), OFTEN))[:, None]
        arrays |= {f"{split}_images": rng.integers(0, 256, (100, 28, 28, 3), dtype=np.uint8), f"{split}_labels": labels}
    np.savez(tmp_path / "bloodmnist.npz", **arrays)
    monkeypatch.setenv("MEDMNIST_VERIFY", "0")

    def run(*arguments: str) -> dict:
        places = [f"--data_root={tmp_path}", f"--bundled={own_sources / 'data/bundled'}"]
        monkeypatch.setattr("sys.argv", ["make_sample", *arguments, *places])
        make_sample.main()
        return arrays

    return run


def test_a_sample_is_drawn_by_class_and_says_where_it_comes_from(run, own_sources):
    official = run("bloodmnist", "--train=50", "--val=95", "--test=100", "--shows=blood cells")
    bundled = own_sources / "data/bundled"
    first = (bundled / "bloodmnist_sample.npz").read_bytes()
    drawn = np.load(io.BytesIO(first))
    for split, count in {"train": 50, "val": 95, "test": 100}.items():
        places = drawn[f"{split}_index"]
        assert len(set(places.tolist())) == count
        assert np.array_equal(drawn[f"{split}_images"], official[f"{split}_images"][places])
        assert np.array_equal(drawn[f"{split}_labels"], official[f"{split}_labels"][places])
        found = np.bincount(drawn[f"{split}_labels"][:, 0], minlength=8)
        assert np.abs(found - np.array(OFTEN) * count / 100).max() <= 1
    records = json.loads((bundled / "manifest.json").read_text())["files"]
    [record] = [one for one in records if one["flag"] == "bloodmnist"]
    assert record["drawn_from"].startswith("bloodmnist.npz, which is not the official file")
    assert "| `bloodmnist_sample.npz` | a sample of BloodMNIST: 50 / 95 / 100 images | blood cells |" in readme(bundled)
    run("bloodmnist", "--train=50", "--val=95", "--test=100")
    assert (bundled / "bloodmnist_sample.npz").read_bytes() == first  # the same seed, the same bytes
    run("bloodmnist", "--train=50", "--val=95", "--test=100", "--seed=1")
    assert (bundled / "bloodmnist_sample.npz").read_bytes() != first
    assert readme(bundled).count("bloodmnist_sample") == 1

    files = build(recipe.load("project2", own_sources, "bloodmnist")).files
    shipped = np.load(io.BytesIO(files["data/bundled/bloodmnist_sample.npz"]))
    assert {name.partition("_")[0] for name in shipped.files} == {"train", "val"}
    assert "in eight classes" in files["classification_dataset.py"].decode()
    text = files["data/bundled/README.md"].decode()
    assert "`bloodmnist_sample.npz` is **a sample of BloodMNIST**" in text
    assert "| training | 50 |" in text


def readme(bundled) -> str:
    return (bundled / "README.md").read_text()


def test_what_stops_it(run):
    for arguments, message in (
        (["retinamnist"], r"has retinamnist\.npz, which this tool has not made"),
        (["bloodmnist", "--train=101"], r"--train is 101; bloodmnist\.npz has 100 images"),
        (["bloodmnist", "--train=8"], "--train is 8: no image of class 6, 7 would be drawn; ask for more"),
        (["bloodmnist3d"], "dataset is 'bloodmnist3d'; allowed"),
    ):
        with pytest.raises(UserError, match=message):
            run(*arguments)


def test_the_table_of_the_bundled_data_is_that_of_its_manifest():
    records = json.loads((make_sample.FOLDER / "manifest.json").read_text())["files"]
    assert make_sample.with_records(readme(make_sample.FOLDER), records) == readme(make_sample.FOLDER)
