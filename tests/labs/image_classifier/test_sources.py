"""Folders and tables as people have them: nothing dropped without a word, nothing taken for a class that is none."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labs.image_classifier import prepare
from labs.image_classifier.utils import datafolder, tables
from tests.images.helpers import write_dicom
from tests.labs.image_classifier.conftest import make_images
from toolkit.errors import UserError
from toolkit.images import frames_of

pytestmark = pytest.mark.provided


def prepared(source: Path, *words: str) -> datafolder.DataFolder:
    """The data folder that prepare makes of a source."""
    out = source.parent / "data"
    prepare.main([str(source), "--out", str(out), "--overwrite", *words])
    return datafolder.read(out)


def problems_of(data: datafolder.DataFolder) -> dict[str, str]:
    """problems.csv: file name → reason."""
    with open(data.path / "problems.csv", encoding="utf-8") as file:
        return {Path(row["path"]).name: row["problem"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("names", [("train", "val", "test"), ("training", "valid", "test"), ("Train", "Test")])
@pytest.mark.parametrize("other", ["docs", "__MACOSX", "copy/train/left"])
def test_what_lies_next_to_the_splits_is_no_class(tmp_path: Path, names: tuple[str, ...], other: str, capsys) -> None:
    for seed, name in enumerate(names):
        make_images(tmp_path / "set" / name, 8, seed)
    (tmp_path / "set" / other).mkdir(parents=True)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "set" / other / "figure.png")
    Image.fromarray(np.ones((9, 9), np.uint8)).save(tmp_path / "set" / names[-1] / "loose.png")
    data = prepared(tmp_path / "set")
    assert data.classes == ["left", "right"]
    assert data.count("test") == 16
    told = capsys.readouterr().out
    assert f"{16 * len(names) + 2} files, {16 * len(names)} images taken; left out: " in told
    found = problems_of(data)
    assert set(found) == {"figure.png", "loose.png"}
    assert "not in the folder of a class" in found["loose.png"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make_images(tmp_path / "set", 8)
    (tmp_path / "set" / "left").rename(tmp_path / "set" / "train")
    assert prepared(tmp_path / "set").classes == ["right", "train"]


def test_a_single_split_with_classes_in_it_is_a_split(tmp_path: Path) -> None:
    make_images(tmp_path / "set" / "train", 12)
    (tmp_path / "set" / "docs").mkdir()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "set" / "docs" / "figure.png")
    data = prepared(tmp_path / "set")
    assert data.classes == ["left", "right"]
    assert data.count("test") == 0


def test_splits_without_class_folders_are_a_mistake(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "set" / name / "a.png")
    with pytest.raises(UserError, match=r"has no image in a folder for its class .*make a folder for each class"):
        prepared(tmp_path / "set")


def test_sub_folders_of_a_class_are_patients_if_asked_for(tmp_path: Path) -> None:
    make_images(tmp_path / "set", 20)
    for path in list((tmp_path / "set").rglob("*.png")):
        patient = path.parent / path.name.partition("_")[0]
        patient.mkdir(exist_ok=True)
        path.rename(patient / path.name)
    data = prepared(tmp_path / "set", "--group_by_folder")
    splits: dict[str, set[str]] = {}
    for record in data.records:
        splits.setdefault(record.group, set()).add(record.split)
    assert set(splits) == {f"p{number:02d}" for number in range(10)}
    assert {len(found) for found in splits.values()} == {1}


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are always Unicode there")
def test_one_bad_file_costs_nothing_else(tmp_path: Path, capsys) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed (requirements-dev.txt)")
    make_images(tmp_path / "set", 12)
    folder = tmp_path / "set" / "left"
    (folder / "empty.png").touch()
    tifffile.imwrite(folder / "nan.tif", np.full((8, 8), np.nan, np.float32))
    odd = os.path.join(os.fsencode(folder), b"caf\xe9.png").decode("utf-8", "surrogateescape")
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(odd)
    data = prepared(tmp_path / "set")
    assert len(data.records) == 25
    assert any(record.path.exists() and os.fsencode(record.path).endswith(b"caf\xe9.png") for record in data.records)
    found = problems_of(data)
    assert set(found) == {"empty.png", "nan.tif"}
    assert "64 of 64 values are NaN" in found["nan.tif"]
    capsys.readouterr().out.encode("utf-8")


def test_frames_are_images_of_one_group_or_one_is_named(tmp_path: Path) -> None:
    make_images(tmp_path / "set", 10)
    frames = [Image.fromarray(np.full((16, 16), 20 * number, np.uint8)) for number in range(1, 4)]
    for name in ("left", "right"):
        frames[0].save(tmp_path / "set" / name / "scan.tif", save_all=True, append_images=frames[1:])
        frames = [Image.fromarray(np.full((16, 16), 20 * number + 9, np.uint8)) for number in range(1, 4)]
    refused = prepared(tmp_path / "set")
    assert "3 frames; name one with --frame" in problems_of(refused)["scan.tif"]
    every = prepared(tmp_path / "set", "--frame", "all", "--val", "0.3")
    split_of = {}
    for record in every.records:
        if "scan.tif" in record.path.name:
            split_of.setdefault(record.path.parent, set()).add(record.split)
    assert len(every.records) == 26
    assert [len(found) for found in split_of.values()] == [1, 1], "frames of one file are in two splits"
    second = prepared(tmp_path / "set", "--frame", "2")
    assert sum(record.path.name == "scan.tif#frame=2" for record in second.records) == 2


def test_two_grey_scales_in_one_set_cause_a_warning_with_both_counts(tmp_path: Path, capsys) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-dev.txt)")
    generator = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "set" / ("left" if number % 2 else "right")
        folder.mkdir(parents=True, exist_ok=True)
        window = {"WindowCenter": 2000, "WindowWidth": 4000} if number < 17 else {}
        write_dicom(folder / f"{number}.dcm", generator.integers(0, 4096, (8, 8)).astype(np.uint16), **window)
    prepared(tmp_path / "set")
    told = capsys.readouterr().out
    assert "warning: 2 grey scales in one set (" in told
    assert "17 with window" in told
    assert "7 with more than 8 bits" in told
    prepared(tmp_path / "set", "--window", "2000", "4000")
    assert "grey scales" not in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("before", ["", "\n\n", "sep={}\n"])
def test_tables_of_any_spreadsheet(tmp_path: Path, encoding: str, delimiter: str, before: str) -> None:
    rows = [["path", "label"], ["a.png", "x, or y"], ["", ""], ["b.png", "z"], ["", ""]]
    with open(tmp_path / "list.csv", "w", encoding=encoding, newline="") as file:
        file.write(before.format(delimiter))
        csv.writer(file, delimiter=delimiter).writerows(rows)
    found = tables.read_table(tmp_path / "list.csv", ["path", "label"])
    above = before.count("\n")
    assert found == [
        (2 + above, {"path": "a.png", "label": "x, or y"}),
        (4 + above, {"path": "b.png", "label": "z"}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; give a CSV with a header, such as path,label"),
        ("\n\n", "is empty"),
        ("path,label\n", "a header and no rows"),
        ("path,label\na.png,x,y\n", "line 2: 3 cells, but the header has 2; put quotation marks"),
        ("path;label;\n", "a header and no rows"),
        ("sep=;\n", "has no column path, label"),
        ("path,label,label\na.png,x,y\n", "has the column label 2 times; rename or remove one"),
        ('path,label\n"a.png,x\nb.png,y\nc.png,y\n', r"unexpected end of data \(line 4\)"),
        ("p\0a\0t\0h\0", "is not a text file in UTF-8; export it as"),
    ],
)
def test_tables_that_say_nothing_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        prepare.main([str(tmp_path / "list.csv"), "--out", str(tmp_path / "data")])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_paths_of_windows_and_ids_without_an_ending(tmp_path: Path) -> None:
    make_images(tmp_path, 2)
    (tmp_path / "left" / "ISIC_1.5.png").write_bytes((tmp_path / "left" / "p00_0.png").read_bytes())
    finder = tables.Finder(tmp_path)
    assert finder.find("left\\p00_1.png") == tmp_path / "left" / "p00_1.png"
    assert finder.find("right/p00_0") == tmp_path / "right" / "p00_0.png", "not the one of the same name in left"
    assert finder.find("right\\p00_0") == tmp_path / "right" / "p00_0.png"
    assert finder.find("ISIC_1.5") == tmp_path / "left" / "ISIC_1.5.png"
    assert finder.find("left/p00_1.png#frame=1") == tmp_path / "left" / "p00_1.png#frame=1"
    assert not finder.find("nowhere").exists()
    assert not finder.find("right/ISIC_1.5").exists(), "that is another folder's, perhaps another patient's"
    assert finder.find("n" * 300).name == "n" * 300, "too long for a file system"
    (tmp_path / "left" / "p00_0.png").rename(tmp_path / "left" / "Gr\u00f6\u00dfe.png")
    for name in ("left/Gro\u0308\u00dfe.png", "left/Gro\u0308\u00dfe", "Gro\u0308\u00dfe"):
        assert finder.find(name).exists() or tables.Finder(tmp_path).find(name).exists(), "as macOS writes it"
    with pytest.raises(UserError, match=r"'p00_0' fits 2 files .*write the whole name"):
        finder.find("p00_0")


@pytest.mark.parametrize(
    ("labels", "warning"),
    [
        (["a", "b", "nan", "nan"], "2 images have the label 'nan', which often means a missing one"),
        (["1", "1.0", "2"], "'1' (1), '1.0' (1) are different classes here"),
        (["Normal", "normal", "normal"], "'Normal' (1), 'normal' (2) are different"),
        (["stage_1", "Stage 1"], "are different classes"),
        (["gut\u00e4rtig", "guta\u0308rtig"], r"'guta\u0308rtig' (1), 'gut\xe4rtig' (1) are different classes"),
    ],
)
def test_odd_labels_cause_a_warning(labels: list[str], warning: str) -> None:
    assert warning in " ".join(tables.odd_labels(labels))


def test_usual_labels_cause_none() -> None:
    assert tables.odd_labels(["A+", "A-", "1", "2", "10", "no finding", "negative"]) == []


def test_a_frame_that_is_named_is_not_multiplied(tmp_path: Path) -> None:
    frames = [Image.new("L", (9, 9), number) for number in range(3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    assert frames_of(tmp_path / "a.tif", "all") == [tmp_path / f"a.tif#frame={number}" for number in (1, 2, 3)]
    named = tmp_path / "a.tif#frame=2"
    assert frames_of(named, "all") == [named]


def test_groups_written_in_two_ways_or_missing_cause_a_warning() -> None:
    first, second = tables.odd_groups(["P1", "p1", "P2", "", ""])
    assert first.startswith("2 images have no group")
    assert second.startswith("the groups 'P1' (1), 'p1' (1) are different groups here")
    assert tables.odd_groups(["", ""]) == tables.odd_groups(["P1", "P2"]) == []


@pytest.mark.parametrize("other", ["Testing", "dev"])
def test_other_names_of_splits_are_known(tmp_path: Path, other: str) -> None:
    for seed, name in enumerate(("train", other)):
        make_images(tmp_path / "set" / name, 8, seed)
    assert prepared(tmp_path / "set").classes == ["left", "right"]


def test_a_split_under_an_unknown_name_is_no_class(tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "centre_b")):
        make_images(tmp_path / "set" / name, 8, seed)
    with pytest.raises(UserError, match=r"train and centre_b both hold the folders left, right.* train, val and test"):
        prepared(tmp_path / "set")


def test_names_with_blanks_and_line_breaks_are_found_again(tmp_path: Path) -> None:
    make_images(tmp_path / "data" / "images", 8)
    folder = tmp_path / "data" / "images" / "left"
    (folder / "p00_0.png").rename(folder / "p00_0.png ")
    (folder / "p00_1.png").rename(folder / "a\r\n,b.png")
    folder.rename(folder.with_name("le\nft"))
    data = prepared(tmp_path / "data" / "images")
    assert len(data.records) == 16
    assert all(record.path.is_file() for record in data.records)
    assert data.classes == [r"le\x0aft", "right"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--group_column", "patient"), "--group_column is for a CSV, .* --group_pattern and --group_by_folder"),
        (("--split_column", "split"), "--split_column is for a CSV"),
        (("--group_pattern", "png"), "16 images are too few: none is left for val and test.* add some$"),
    ],
)
def test_what_would_leak_or_be_ignored_is_refused(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    make_images(tmp_path / "set", 8)
    with pytest.raises(UserError, match=message):
        prepared(tmp_path / "set", *words)
    assert not (tmp_path / "data").exists()


def test_the_cure_for_too_few_images_works(tmp_path: Path) -> None:
    make_images(tmp_path / "set", 2)
    with pytest.raises(UserError, match=r"val and test.* needs 3 images of different .*or give --test 0"):
        prepared(tmp_path / "set")
    assert prepared(tmp_path / "set", "--test", "0").count("val") == 2


def test_a_class_whose_images_are_all_broken_does_not_vanish(tmp_path: Path) -> None:
    make_images(tmp_path / "set", 8)
    (tmp_path / "set" / "rare").mkdir()
    (tmp_path / "set" / "rare" / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"no image of the class 'rare' can be read \(.*a\.png: not an image"):
        prepared(tmp_path / "set")
