"""Splits that keep groups and copies together, and every wrong input that prepare and its reader must refuse."""

from __future__ import annotations

import csv
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labs.image_classifier import prepare
from labs.image_classifier.utils import datafolder, sources, splitting
from labs.image_classifier.utils.datafolder import Record
from tests.labs.image_classifier.conftest import make_images
from toolkit.errors import UserError
from toolkit.medmnist_data import load

pytestmark = pytest.mark.provided


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metadata.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("seed", range(5))
def test_units_stay_whole_and_labels_keep_their_shares(seed: int) -> None:
    generator = np.random.default_rng(seed)
    units = generator.integers(0, 150, 600)
    labels = np.eye(3, dtype=int)[generator.choice(3, 600, p=[0.7, 0.25, 0.05])]
    shares = {"train": 0.7, "val": 0.15, "test": 0.15}
    parts = splitting.assign(units, labels, shares, seed)
    for unit in np.unique(units):
        assert len(set(parts[units == unit])) == 1
    for name, share in shares.items():
        inside = labels[parts == name].sum(axis=0)
        assert np.abs(inside - share * labels.sum(axis=0)).max() <= 4  # the largest unit has 12 images


def test_single_images_are_shared_out_exactly_and_several_labels_too() -> None:
    labels = np.repeat(np.eye(2, dtype=int), [100, 40], axis=0)
    parts = splitting.assign(np.arange(140), labels, {"train": 0.7, "val": 0.15, "test": 0.15}, 0)
    assert Counter(parts[:100]) == {"train": 70, "val": 15, "test": 15}
    assert Counter(parts[100:]) == {"train": 28, "val": 6, "test": 6}
    several = (np.random.default_rng(0).random((400, 5)) < [0.5, 0.3, 0.1, 0.05, 0.02]).astype(int)
    parts = splitting.assign(np.arange(400), several, {"train": 0.8, "test": 0.2}, 0)
    assert np.abs(several[parts == "test"].sum(axis=0) - 0.2 * several.sum(axis=0)).max() <= 3
    tiny = splitting.assign(np.arange(3), np.ones((3, 1), int), {"train": 0.7, "val": 0.15, "test": 0.15}, 0)
    assert sorted(tiny) == ["test", "train", "val"]


@pytest.mark.parametrize("count", [3, 4, 5])
def test_a_few_large_groups_reach_every_split(count: int) -> None:
    units = np.repeat(np.arange(count), 8)
    labels = np.tile(np.eye(2, dtype=np.int64), (4 * count, 1))
    found = splitting.assign(units, labels, {"train": 0.7, "val": 0.15, "test": 0.15}, seed=0)
    assert {name: int((found == name).sum()) // 8 for name in np.unique(found)} == {
        "train": count - 2,
        "val": 1,
        "test": 1,
    }


def test_groups_and_contents_bind_by_chains() -> None:
    units = splitting.bind(["a", "a", "b", "", "c", ""], ["1", "2", "2", "3", "4", "3"])
    assert units[0] == units[1] == units[2]
    assert units[3] == units[5]
    assert len({units[0], units[3], units[4]}) == 3


def test_patients_and_copies_are_never_split(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 30)
    for number in range(6):  # copies in other files and other formats
        source = sorted((tmp_path / "images" / "left").glob("p*.png"))[number]
        Image.open(source).save(tmp_path / "images" / "left" / f"p9{number}_copy.bmp")
    prepare.main([str(tmp_path / "images"), "--out", str(tmp_path / "data"), "--group_pattern", "^(p[0-9]+)_"])
    rows = rows_of(tmp_path / "data")
    assert len(rows) == 66
    for column in ("group", "content"):
        splits = defaultdict(set)
        for row in rows:
            splits[row[column]].add(row["split"])
        assert {len(found) for found in splits.values()} == {1}, f"{column} is in two splits"
    assert {row["split"] for row in rows} == {"train", "val", "test"}


def test_a_given_test_set_stays_and_its_copies_leave_the_training(tmp_path: Path) -> None:
    for split, seed in (("train", 1), ("val", 2), ("test", 3)):
        make_images(tmp_path / "images" / split, 8, seed)
    copied = tmp_path / "images" / "test" / "left" / "p00_0.png"
    shutil.copy(copied, tmp_path / "images" / "train" / "left" / "leak.png")
    prepare.main([str(tmp_path / "images"), "--out", str(tmp_path / "data")])
    data = datafolder.read(tmp_path / "data")
    assert (data.count("train"), data.count("val"), data.count("test")) == (16, 16, 16)
    assert [record.path.name for record in data.of("left_out")] == ["leak.png"]


def test_a_patient_in_two_given_splits_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    for split, seed in (("train", 1), ("val", 2), ("test", 3)):
        make_images(tmp_path / "images" / split, 4, seed)
    words = [str(tmp_path / "images"), "--out", str(tmp_path / "data"), "--group_pattern", "^p[0-9]+"]
    with pytest.raises(UserError, match=r"images of group p0\d are in \w+ and \w+ .*let prepare draw the splits"):
        prepare.main(words)
    assert not (tmp_path / "data" / "metadata.csv").exists()


def test_unreadable_files_and_contradicting_copies_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_images(tmp_path / "images", 12)
    (tmp_path / "images" / "left" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    shutil.copy(tmp_path / "images" / "left" / "p00_0.png", tmp_path / "images" / "right" / "which.png")
    prepare.main([str(tmp_path / "images"), "--out", str(tmp_path / "data")])
    problems = (tmp_path / "data" / "problems.csv").read_text()
    assert "broken.png" in problems
    assert "the same image as" in problems
    assert "2 problems" in capsys.readouterr().out


def test_the_range_of_deep_images_comes_from_the_training_split_alone(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split, top in (("train", 3000), ("val", 9000), ("test", 60_000)):
        for name in ("a", "b"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                pixels = generator.integers(100, top, (40, 40)).astype(np.uint16)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    prepare.main([str(tmp_path / "images"), "--out", str(tmp_path / "data")])
    low, high = datafolder.read(tmp_path / "data").facts["value_range"]
    pixels = [np.asarray(Image.open(path)) for path in (tmp_path / "images" / "train").rglob("*.png")]
    assert low == pytest.approx(min(np.percentile(one, 0.1) for one in pixels))
    assert high == pytest.approx(max(np.percentile(one, 99.9) for one in pixels))


def test_a_csv_with_other_column_names_several_labels_and_mixed_sizes(tmp_path: Path) -> None:
    make_images(tmp_path, 10)
    Image.fromarray(np.zeros((50, 20, 3), np.uint8) + np.uint8([9, 99, 200])).save(tmp_path / "left" / "big.png")
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png"))
    lines = [f"{path},{'left|old' if number % 2 else path.parts[0]}" for number, path in enumerate(files)]
    (tmp_path / "list.csv").write_text("file,finding\n" + "\n".join([*lines[:-1], f"{files[-1]},"]) + "\n")
    arguments = ["--path_column", "file", "--label_column", "finding", "--multi_label"]
    prepare.main([str(tmp_path / "list.csv"), "--out", str(tmp_path / "data"), *arguments])
    data = datafolder.read(tmp_path / "data")
    assert data.multi_label
    assert data.classes == ["left", "old", "right"]
    assert data.facts["channels"] == 3
    assert data.labels(data.of("train")).shape == (data.count("train"), 3)


def folder_with(tmp_path: Path, kind: str) -> list[str]:
    """Arguments of prepare for one kind of wrong input."""
    make_images(tmp_path / "images", 4)
    images, out = tmp_path / "images", ["--out", str(tmp_path / "data")]
    listed = tmp_path / "list.csv"
    if kind == "empty class":
        (images / "middle").mkdir()
    elif kind == "one class":
        shutil.rmtree(images / "right")
    elif kind == "nothing readable":
        for path in images.rglob("*.png"):
            path.write_bytes(b"x")
    elif kind == "no source":
        return ["nowhere", *out]
    elif kind == "wrong columns":
        listed.write_text("image,diagnosis\na.png,x\n")
        return [str(listed), *out]
    elif kind == "wrong split":
        listed.write_text("path,label,part\nimages/left/p00_0.png,x,learn\n")
        return [str(listed), *out, "--split_column", "part"]
    elif kind == "pattern":
        return [str(images), *out, "--group_pattern", "^patient"]
    elif kind == "shares":
        return [str(images), *out, "--val", "0.5", "--test", "0.5"]
    return [str(images), *out]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty class", "the class folder .*middle has no image"),
        ("one class", "has 1 class .left.; a classifier needs at least two"),
        ("nothing readable", "none of the 8 images can be read"),
        ("no source", "source is 'nowhere': no such folder or file, and no MedMNIST set"),
        ("wrong columns", "has no column path, label; it has: image, diagnosis"),
        ("wrong split", "line 2: split is 'learn'; allowed: train"),
        ("pattern", "does not match the file name"),
        ("shares", "val . test is 1; allowed: below 1"),
    ],
)
def test_wrong_input_is_refused_in_one_line(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        prepare.main(folder_with(tmp_path, kind))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",val,", ",test,"), "no image in split val"),
        (lambda text: text.replace("right,train", "right,val"), "label 'right', which no training image has"),
        (lambda text: text.replace(",left,train,p00", ",left,test,p00", 1), "are in (test and train|train and test)"),
        (lambda text: text.replace(",left,", ",link,", 1), "line 2: label 'link' is not one of left, right"),
        (lambda text: text.replace(",train,", ",learn,", 1), "split is 'learn'; allowed: train, val, test"),
        (lambda text: text.replace("path,label", "file,label"), "has no column path"),
        (lambda text: text.split("\n")[0] + "\n", "a header and no rows"),
    ],
)
def test_metadata_changed_by_hand_is_checked(tmp_path: Path, prepared: Path, change, message: str) -> None:
    shutil.copytree(prepared, tmp_path / "data")
    text = (prepared / "metadata.csv").read_text()
    text = text.replace(",left,val,p00", ",left,train,p00").replace(",left,test,p00", ",left,train,p00")
    text = text.replace(",right,val,p00", ",right,train,p00").replace(",right,test,p00", ",right,train,p00")
    datafolder.read(tmp_path / "data")
    (tmp_path / "data" / "metadata.csv").write_text(change(text))
    with pytest.raises(UserError, match=message):
        datafolder.read(tmp_path / "data")


def test_a_second_preparation_does_not_replace_the_first(prepared: Path) -> None:
    with pytest.raises(UserError, match="give --overwrite"):
        prepare.main([str(prepared.parent / "images"), "--out", str(prepared)])


def test_medmnist_is_exported_with_its_official_test_set(tmp_path: Path) -> None:
    prepare.main(["breastmnist", "--out", str(tmp_path), "--data_root", str(tmp_path)])
    data = datafolder.read(tmp_path)
    official = load("breastmnist", ("test",), data_root=tmp_path)["test"]
    assert data.labels(data.of("test")).tolist() == official.labels.tolist()
    first = np.asarray(Image.open(data.of("test")[0].path))
    assert np.array_equal(first, official.images[0, 0].numpy())
    assert data.count("left_out") == 1, "BreastMNIST has one training image in its test set, with the other label"


SLIPS = [["--group_pattern", "("], ["--group_pattern", "^x"], ["--max_pixels", "10"], ["--window", "nan", "9"]]
SLIPS += [["--group_by_folder"], ["--val", "0.9", "--test", "0.5"], ["--no_such_flag"]]


@pytest.mark.parametrize("words", SLIPS)
def test_a_slip_with_overwrite_changes_nothing(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(_flag: str, _size: int, _root: str, folder: Path) -> tuple[list[Record], list[str], bool, str]:
        make_images(folder / "train", 4, seed=9)  # other images than those that are there
        return (
            [Record(path, path.parent.name, "train") for path in folder.rglob("*.png")],
            ["left", "right"],
            False,
            "b",
        )

    out = tmp_path / "data"
    make_images(out / "images" / "train", 8)
    prepare.main([str(out / "images" / "train"), "--out", str(out)])
    (out / "problems.csv").write_text("path,problem\n")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(sources, "export_medmnist", export)
    for folder in (out, tmp_path / "new"):
        with pytest.raises((UserError, SystemExit)):
            prepare.main(["breastmnist", "--out", str(folder), "--overwrite", *words])
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
