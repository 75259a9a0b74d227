"""How people arrange folders of images: classes, splits and folds in any order; nothing becomes a class by mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from labs.image_classifier import prepare
from labs.image_classifier.utils import datafolder
from labs.image_classifier.utils.layout import split_of
from tests.labs.image_classifier.conftest import make_images
from toolkit.errors import UserError

pytestmark = pytest.mark.provided


def prepared(source: Path, *words: str) -> datafolder.DataFolder:
    out = source.parent / "data"
    prepare.main([str(source), "--out", str(out), "--overwrite", *words])
    return datafolder.read(out)


def fill(root: Path, *folders: str, count: int = 4) -> Path:
    """A folder `set` with the classes left and right in each of these folders."""
    for seed, name in enumerate(folders):
        make_images(root / "set" / name, count, seed)
    return root / "set"


@pytest.mark.parametrize(
    "names", [("fold1", "fold2", "fold3"), ("Fold 0", "Fold 1", "Fold 2"), ("cv_1", "cv_2", "cv_3")]
)
def test_folds_are_no_classes_and_stay_whole(tmp_path: Path, names: tuple[str, ...], capsys) -> None:
    data = prepared(fill(tmp_path, *names, "docs"))
    assert data.classes == ["left", "right"]
    splits = {(record.group, record.split) for record in data.records}
    assert sorted(group for group, _ in splits) == sorted(names), "a fold is in one split, and all of it"
    assert {split for _, split in splits} == {"train", "val", "test"}
    told = capsys.readouterr().out
    assert f"{', '.join(names)} are taken as folds" in told
    assert "left out: 8 in docs" in told


def test_folds_that_are_divisions_of_their_own_are_refused_and_the_cure_works(tmp_path: Path) -> None:
    source = fill(tmp_path, *(f"fold{fold}/{split}" for fold in (1, 2) for split in ("train", "test")), count=8)
    with pytest.raises(
        UserError, match=r"fold1, fold2 hold test, train each: .*prepare one of them: .*set/fold1 --out"
    ):
        prepared(source)
    assert prepared(source / "fold1").count("test") == 16


def test_folds_without_classes_are_refused(tmp_path: Path) -> None:
    make_images(tmp_path / "set", 4)
    for fold, name in enumerate(("left", "right"), 1):
        (tmp_path / "set" / name).rename(tmp_path / "set" / f"fold{fold}")
    with pytest.raises(UserError, match=r"fold1, fold2 are the folds .* hold no folder for each class; .*a CSV"):
        prepared(tmp_path / "set")


def test_splits_inside_of_the_classes_are_kept(tmp_path: Path) -> None:
    source = fill(tmp_path, "train", "test", count=8)
    for split in ("train", "test"):
        for name in ("left", "right"):
            (source / name).mkdir(exist_ok=True)
            (source / split / name).rename(source / name / split)
        (source / split).rmdir()
    data = prepared(source)
    assert data.classes == ["left", "right"]
    assert {record.path.parent.name for record in data.of("test")} == {"test"}
    assert data.count("test") == 16


def test_splits_under_longer_names_are_splits(tmp_path: Path) -> None:
    data = prepared(fill(tmp_path, "training_set", "Test-Images", count=8))
    assert data.classes == ["left", "right"]
    assert data.count("test") == 16
    found = {name: split_of(name) for name in ("trainset", "val_data", "test", "set", "trainer", "test_tube", "a test")}
    assert found == {"trainset": "train", "val_data": "val", "test": "test"} | dict.fromkeys(
        ("set", "trainer", "test_tube", "a test"), ""
    )


def test_hospitals_that_look_like_classes_are_named_and_the_cure_works(tmp_path: Path, capsys) -> None:
    source = fill(tmp_path, "Basel", "Zurich", "Bern")
    assert prepared(source).classes == ["Basel", "Bern", "Zurich"]
    told = capsys.readouterr().out
    assert "warning: Basel, Bern, Zurich are taken as the classes, and each holds the folders left, right" in told
    assert "rename the outer ones to fold1, fold2" in told
    for number, name in enumerate(("Basel", "Zurich", "Bern"), 1):
        (source / name).rename(source / f"fold{number}")
    assert prepared(source).classes == ["left", "right"]


def test_patients_in_the_classes_cause_no_warning(tmp_path: Path, capsys) -> None:
    for name in ("benign", "malignant"):
        for patient in ("p1", "p2", f"{name}3"):
            make_images(tmp_path / "set" / name / patient, 2, len(name) + len(patient))
    assert prepared(tmp_path / "set").classes == ["benign", "malignant"]
    assert "are taken as" not in capsys.readouterr().out


def test_a_folder_around_the_classes_is_named(tmp_path: Path) -> None:
    make_images(tmp_path / "set" / "unpacked", 4)
    with pytest.raises(
        UserError, match=r"the only folder is .*unpacked, and it holds left, right; .* give .*unpacked$"
    ):
        prepared(tmp_path / "set")
    assert prepared(tmp_path / "set" / "unpacked").classes == ["left", "right"]
