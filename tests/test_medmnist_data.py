"""toolkit.medmnist_data: which file is found and what is read from it.

The addresses and MD5s of medmnist are pointed at small files made here (tests/medmnist_files.py).
"""

# ruff: noqa: F401, F811 -- fixtures are imported by name and named again as arguments
from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from medmnist import BreastMNIST

from tests.medmnist_files import arrays, find, flip_a_byte_of, lines, server, small_arrays, write
from tests.misbehaving_server import Behaviour, MisbehavingServer
from toolkit import medmnist_data
from toolkit.errors import UserError
from toolkit.medmnist_catalog import BUNDLED_FOLDER, MANIFEST, medmnist_info, official_entry
from toolkit.medmnist_data import SPLITS, DataError, load, locate, official_test

pytestmark = pytest.mark.provided

ROOT = Path(__file__).resolve().parents[1]
FLAGS_AND_SIZES = [
    (flag, size)
    for flag, facts in medmnist_info().items()
    for size in (28, *(int(key[4:]) for key in facts if key.startswith("MD5_")))
]


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flag", "size"), FLAGS_AND_SIZES)
def test_every_flag_and_size_is_read_with_its_documented_shapes(flag, size, tmp_path, find):
    arrays = small_arrays(flag, size, {"train": 2, "val": 1, "test": 1})
    write(tmp_path / "data" / (f"{flag}.npz" if size == 28 else f"{flag}_{size}.npz"), arrays)
    source = find(flag, size=size, verify=False, download=False)
    facts = medmnist_info()[flag]
    assert (source.flag, source.size, source.origin) == (flag, size, "file")
    assert source.class_names == tuple(facts["label"].values())
    assert source.num_classes == len(facts["label"])
    split = source.read("train")
    depth = (size,) if flag.endswith("3d") else ()
    assert split.images.shape == (2, facts["n_channels"], *depth, size, size)
    assert split.images.dtype == torch.uint8
    assert split.labels.dtype == torch.int64
    stored = torch.from_numpy(arrays["train_images"])
    # The one axis that may differ is the channel: first here, last or absent in the file.
    assert torch.equal(split.images.movedim(1, -1).reshape(stored.shape), stored)
    expected = arrays["train_labels"] if source.multi_label else arrays["train_labels"][:, 0]
    assert split.labels.tolist() == expected.tolist()


def test_colour_images_are_a_channels_last_view_of_what_was_read(find):
    images = find(dataset="sample").read("train").images
    assert images.stride() == (28 * 28 * 3, 1, 28 * 3, 3)
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("flag", ["pathmnist", "pneumoniamnist", "breastmnist", "adrenalmnist3d"])
def test_bundled_files_equal_what_numpy_reads(flag, find):
    source = find(flag, dataset="sample")
    with np.load(source.path) as stored:
        for split in filter(source.has, SPLITS):
            ours, images = source.read(split), stored[f"{split}_images"]
            assert len(ours) == source.count(split) == len(images)
            assert np.array_equal(ours.images.movedim(1, -1).numpy().reshape(images.shape), images)
            assert np.array_equal(ours.labels.numpy(), stored[f"{split}_labels"][:, 0])


def test_our_reading_equals_that_of_medmnist(find):
    theirs = BreastMNIST(split="val", root=str(BUNDLED_FOLDER), size=28)
    ours = find("breastmnist").read("val")
    assert len(theirs) == len(ours)
    for index in range(len(ours)):
        image, label = theirs[index]
        assert np.array_equal(np.asarray(image), ours.images[index, 0].numpy())
        assert label[0] == ours.labels[index]


def test_unlabelled_images_follow_with_label_minus_one(find):
    source = find(dataset="sample")
    labelled, both = source.read("train"), source.read("train", unlabelled=True)
    n = source.count("train")
    assert n < source.count("train", unlabelled=True) == len(both)
    assert torch.equal(both.images[:n], labelled.images)
    assert torch.equal(both.labels[:n], labelled.labels)
    assert (both.labels[n:] == -1).all()
    assert labelled.labels.min() >= 0
    with np.load(source.path) as stored:
        assert np.array_equal(both.images[n:].permute(0, 2, 3, 1).numpy(), stored["unlabelled_train_images"])


def test_full_sets_have_no_unlabelled_images_to_add(find):
    source = find("breastmnist")
    assert source.count("train", unlabelled=True) == source.count("train") == 546


def test_counting_decodes_nothing(find, monkeypatch):
    monkeypatch.setattr(medmnist_data.npz_file, "read_array", None)
    assert find("pneumoniamnist").count("test") == 624


def test_load_reads_the_splits_that_are_named(tmp_path):
    splits = load("breastmnist", ("val", "test"), data_root=tmp_path)
    assert {name: len(split) for name, split in splits.items()} == {"val": 78, "test": 156}


def test_an_unknown_split_is_answered_with_the_allowed_ones(find):
    with pytest.raises(UserError, match="split is 'dev'; allowed: train, val, test"):
        find("breastmnist").read("dev")


# --- finding ---------------------------------------------------------------------------------------------------------


def test_a_file_in_data_root_comes_first(server, tmp_path, find, arrays, lines):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pathmnist.npz").write_bytes(server.files["pathmnist.npz"])
    source = find()
    assert (source.origin, source.name, source.is_sample) == ("file", "pathmnist", False)
    assert source.read("val").labels.tolist() == arrays["val_labels"][:, 0].tolist()
    assert server.requests == []
    assert lines == []


def test_else_it_is_downloaded_and_found_the_next_time(server, find, arrays, lines):
    source = find()
    assert (source.origin, source.name, source.is_sample) == ("download", "pathmnist", False)
    assert torch.equal(source.read("test").images.permute(0, 2, 3, 1), torch.from_numpy(arrays["test_images"]))
    assert find().origin == "file"
    assert len(server.requests) == 1
    assert lines == []


def test_else_the_bundled_sample_is_used_and_says_so_in_one_line(server, find, lines):
    server.plan = [Behaviour(status=404)]
    source = find()
    assert (source.origin, source.name, source.is_sample) == ("bundled", "pathmnist-sample", True)
    assert len(lines) == 1
    assert "no full pathmnist: " in lines[0]
    assert "HTTP 404" in lines[0]
    assert "using the bundled pathmnist-sample" in lines[0]


def test_an_address_that_failed_is_not_tried_again_unless_the_full_set_is_demanded(server, find, lines):
    server.plan = [Behaviour(status=404)]
    assert find().is_sample
    assert find().is_sample
    assert len(server.requests) == 1
    assert lines[0] == lines[1]
    assert find(dataset="full").origin == "download"


def test_the_full_set_or_one_clear_line(server, find, tmp_path, lines):
    server.plan = [Behaviour(status=404)]
    with pytest.raises(DataError) as caught:
        find(dataset="full")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("no pathmnist: ", str(tmp_path / "data"), "HTTP 404", "--mirror", "--dataset sample"):
        assert part in message
    assert lines == []


def test_an_official_file_that_is_bundled_counts_as_full_and_is_not_downloaded(server, find, monkeypatch):
    monkeypatch.setenv(medmnist_data.MIRROR_VARIABLE, server.address)
    source = find("pneumoniamnist", dataset="full")
    assert (source.origin, source.name, source.is_sample) == ("bundled", "pneumoniamnist", False)
    assert server.requests == []


def test_the_sample_asks_nobody(server, find, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pathmnist.npz").write_bytes(server.files["pathmnist.npz"])
    assert find(dataset="sample").name == "pathmnist-sample"
    assert server.requests == []


def test_a_size_that_is_not_bundled_has_no_sample(find):
    with pytest.raises(DataError, match="no pathmnist_64 is bundled"):
        find(size=64, dataset="sample")


def test_downloading_can_be_switched_off(server, find, lines):
    assert find(download=False).is_sample
    assert "downloading is switched off" in lines[0]
    assert server.requests == []


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_a_mirror_takes_the_place_of_the_official_address(by, server, find, monkeypatch):
    content = server.files["pathmnist.npz"]
    with MisbehavingServer({"course/files/pathmnist.npz": content}) as mirror:
        address = mirror.url("course/files/")
        if by == "variable":
            monkeypatch.setenv(medmnist_data.MIRROR_VARIABLE, address)
        assert find(mirror=address if by == "argument" else None).origin == "download"
        assert [request.path for request in mirror.requests] == ["/course/files/pathmnist.npz"]
    assert server.requests == []


def test_a_mirror_that_is_no_address_is_refused(find):
    with pytest.raises(UserError, match="mirror is '/mnt/files'; allowed: an http:// or https:// address"):
        find(mirror="/mnt/files")


def test_unknown_names_are_answered_with_the_allowed_ones(find):
    with pytest.raises(UserError, match=r"flag is 'pathminst'; allowed: pathmnist, chestmnist, .*, synapsemnist3d"):
        find("pathminst")
    with pytest.raises(UserError, match="size of pathmnist is 32; allowed: 28, 64, 128, 224"):
        find(size=32)
    with pytest.raises(UserError, match="size of nodulemnist3d is 128; allowed: 28, 64"):
        find("nodulemnist3d", size=128)
    with pytest.raises(UserError, match="dataset is 'half'; allowed: auto, full, sample"):
        find(dataset="half")


def test_a_data_root_that_is_a_file_is_named(server, find, tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match=r"cannot write to .*data"):
        find(dataset="full")


# --- what is bundled -------------------------------------------------------------------------------------------------


def test_each_bundled_file_is_what_the_manifest_says():
    records = json.loads(MANIFEST.read_text(encoding="utf-8"))["files"]
    assert {record["file"] for record in records} == {path.name for path in BUNDLED_FOLDER.glob("*.npz")}
    for record in records:
        assert hashlib.md5((BUNDLED_FOLDER / record["file"]).read_bytes()).hexdigest() == record["md5"]
        assert (official_entry(record["flag"], record["size"]).md5 == record["md5"]) is record["official"]


@pytest.fixture
def student_bundle(tmp_path, monkeypatch) -> Path:
    """A bundled folder as students have it: the sample without its test arrays."""
    folder = tmp_path / "bundled"
    rows = {"train": 9, "val": 4}
    extra = {f"unlabelled_{split}_images": small_arrays()[f"{split}_images"] for split in SPLITS}
    md5 = write(folder / "pathmnist_sample.npz", {**small_arrays(rows=rows), **extra})
    record = {"file": "pathmnist_sample.npz", "flag": "pathmnist", "size": 28, "name": "pathmnist-sample"}
    record |= {"official": False, "md5": md5, "what": "a test"}
    (folder / "manifest.json").write_text(json.dumps({"files": [record]}))
    monkeypatch.setattr("toolkit.medmnist_catalog.BUNDLED_FOLDER", folder)
    monkeypatch.setattr("toolkit.medmnist_catalog.MANIFEST", folder / "manifest.json")
    return folder


def test_a_split_that_the_course_holds_back_says_so(student_bundle, find):
    source = find(dataset="sample")
    assert [split for split in SPLITS if source.has(split)] == ["train", "val"]
    assert source.count("test") == 0
    with pytest.raises(
        DataError, match=r"pathmnist_sample\.npz has no test_images .*: the course holds this split back"
    ):
        source.read("test")
    assert official_test(source) is source, "a student's copy has no official test images"
    assert source.has("test", unlabelled=True)
    assert source.read("test", unlabelled=True).labels.tolist() == [-1] * 3


def test_results_are_reported_on_the_official_test_images_where_they_are_here(find):
    source = find(dataset="sample")
    test = official_test(source)
    if not test.has("test"):
        return  # a student's copy: the test above
    assert (test.name, test.is_sample, test.count("train")) == ("pathmnist-official-test-tenth", True, 0)
    # Per class as they were drawn from the official split: no other 718 images are meant.
    assert test.read("test").labels.bincount().tolist() == [147, 78, 26, 60, 112, 60, 85, 28, 122]
    assert official_test(locate("breastmnist")).name == "breastmnist", "an official file has its own test split"


def test_a_changed_bundled_file_is_named_with_its_cure_and_left_alone(student_bundle, find):
    flip_a_byte_of("train_images.npy")(student_bundle / "pathmnist_sample.npz")
    with pytest.raises(DataError, match=r"pathmnist_sample\.npz was changed .* restore it with: git checkout"):
        find(dataset="sample")
    (student_bundle / "pathmnist_sample.npz").unlink()
    with pytest.raises(DataError, match=r"pathmnist_sample\.npz cannot be read .* restore it with: git checkout"):
        find(dataset="sample")


def test_importing_is_light_and_medmnist_itself_is_never_imported():
    code = (
        "import sys, toolkit.medmnist_data as m\n"
        "print({'torch', 'torchvision', 'medmnist'} & set(sys.modules))\n"
        "m.locate('breastmnist')\n"
        "print({'torch', 'torchvision', 'medmnist'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "set()\nset()\n"
