"""What students upload instead of a folder or a zip: whatever can be read is read, and anything else is named."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from staff.grader import submission as reading
from staff.grader.locating import locate
from staff.grader.submission import read_submission
from staff.tests.grader.test_submission import ALLOWED, FILES, git, make_folder, make_zip
from toolkit.errors import UserError

HW5 = {"labs/hw5/dl.py": 1000, "labs/hw5/outputs/1.png": 1000, "labs/hw5/outputs/2.png": 1000, "labs/hw5/ev.py": 1000}


def zip_of(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return content.getvalue()


def notes_of(path: Path) -> str:
    """Notes of a submission whose files were all read."""
    submission = read_submission(path, ALLOWED)
    assert submission.files == FILES
    return "; ".join(submission.notes)


def test_archives_in_archives(tmp_path):
    """However a site or a student wrapped them; endless wrapping is not followed."""
    inner = zip_of(FILES)
    assert "found in 'final/inner.zip'" in notes_of(make_zip(tmp_path / "a.zip", [("final/inner.zip", inner)]))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        member = tarfile.TarInfo("b.zip")
        member.size = len(inner)
        archive.addfile(member, io.BytesIO(inner))
    notes_of(make_zip(tmp_path / "b.zip", [("work.tar.xz", packed.getvalue())]))
    notes_of(make_folder(tmp_path / "folder", {"sub/a.zip": zip_of({"b.zip": inner})}))
    notes_of(make_folder(tmp_path / "no ending", {"project2": inner, "LICENSE": b"text"}))
    for _ in range(5):
        inner = zip_of({"deeper.zip": inner})
    with pytest.raises(UserError, match=r"it holds deeper\.zip"):
        read_submission(make_zip(tmp_path / "deep.zip", [("deeper.zip", inner)]), ALLOWED)


def test_archives_that_unpack_to_more_and_more_end(tmp_path, monkeypatch):
    """One that unpacks to gigabytes, and one of five levels that each hold ten of the next."""
    monkeypatch.setattr(reading, "MAX_INNER_BYTES", 1 << 20)
    large = zip_of({"models.py": b"0" * (2 << 20)})  # stored, so that the outer one shrinks it
    with pytest.raises(UserError, match="the archives in it are larger than 1 MB; hand in their files"):
        read_submission(make_zip(tmp_path / "large.zip", [("a.zip", large)]), ALLOWED)
    monkeypatch.setattr(reading, "MAX_INNER_BYTES", 20_000)
    many, looked_at = zip_of({"a.txt": b""}), []
    for _ in range(3):
        many = zip_of({f"{i}.zip": many for i in range(10)})
    monkeypatch.setattr(reading, "locate", lambda names, *rest: looked_at.append(names) or locate(names, *rest))
    with pytest.raises(UserError, match=r"it holds|are larger than"):
        read_submission(make_zip(tmp_path / "many.zip", [("a.zip", many)]), ALLOWED)
    assert len(looked_at) < 20


def test_a_repository_that_holds_an_archive(tmp_path):
    folder = make_folder(tmp_path / "clone", {"work.zip": zip_of(FILES)})
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "hand in")
    assert read_submission(folder / ".git", ALLOWED).files == FILES


def test_two_archives_are_joined_unless_they_differ(tmp_path):
    parts = {f"{name}.zip": zip_of({name: content}) for name, content in FILES.items()}
    notes_of(make_folder(tmp_path / "parts", parts))
    notes_of(make_folder(tmp_path / "same", {"a.zip": zip_of(FILES), "b.zip": zip_of(FILES)}))
    notes = notes_of(make_folder(tmp_path / "one is broken", {"a.zip": zip_of(FILES), "b.zip": b"PK"}))
    assert "'b.zip' was not read: 'b.zip' is damaged" in notes
    with pytest.raises(UserError, match=r"'work\.zip' is damaged"):  # not: that the other one holds none of the files
        read_submission(make_folder(tmp_path / "data", {"data.zip": zip_of({"x": b""}), "work.zip": b"PK"}), ALLOWED)
    versions = {"v1.zip": zip_of(FILES), "v2.zip": zip_of({"models.py": b"A = 2\n"})}
    with pytest.raises(UserError, match=r"holds models\.py in 'v1\.zip' and in 'v2\.zip', which differ"):
        read_submission(make_folder(tmp_path / "versions", versions), ALLOWED)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Copy of ", ".py"),
        ("", " - Copy.py"),
        ("", " copy 2.py"),
        ("", ".py.txt"),
        ("", " (1).py.download"),
        ("ada_LATE_22_333_", "-1.py"),
    ],
)
def test_names_that_systems_make(tmp_path, before, after):
    named = {f"{before}{name.removesuffix('.py')}{after}": content for name, content in FILES.items()}
    assert "was read as models.py" in notes_of(make_folder(tmp_path / "a", named))


@pytest.mark.parametrize("folder", ["/home/ada/p2/", "C:\\Users\\ada\\p2\\", "../../p2/", "./", "p2//"])
def test_paths_in_an_archive_may_lead_anywhere(tmp_path, folder):
    """Nothing is written by its name, so that a name outside the archive does no harm."""
    notes_of(make_zip(tmp_path / "a.zip", [(f"{folder}{name}", content) for name, content in FILES.items()]))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(f"{folder}{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    notes_of(tmp_path / "a.tar")


def test_parts_in_two_folders_and_other_versions(tmp_path):
    """Parts are put together; of two versions the fuller one counts, and the other one is named."""
    notes_of(make_folder(tmp_path / "parts", {"part1/models.py": FILES["models.py"], "part2/train.py": b"B = 2\n"}))
    old = {"2026/models.py": b"old", **{f"now/{name}": content for name, content in FILES.items()}}
    assert "files of the same names in '2026/' were not read" in notes_of(make_folder(tmp_path / "old", old))
    both = {f"{folder}/{name}": content for folder in ("2026", "now") for name, content in FILES.items()}
    with pytest.raises(UserError, match="in '2026/' and in 'now/'"):  # last year's are not taken for their weights
        read_submission(make_folder(tmp_path / "both", both | {"2026/best.pt": b"weights"}), ALLOWED)


def test_figures_in_a_folder_next_to_flat_code(tmp_path):
    """More figures than modules: the code is read all the same."""
    files = {"dl.py": b"1", "ev.py": b"2", "outputs/1.png": b"3", "outputs/2.png": b"4"}
    submission = read_submission(make_folder(tmp_path / "a", files | {"outputs/3.png": b""}), HW5)
    assert sorted(submission.files.values()) == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("declared", ["rot13", "hex", "undefined", "idna", "nothing_like_it"])
def test_a_source_with_an_odd_coding_line_is_left_to_python(tmp_path, declared):
    folder = make_folder(tmp_path / "one", {"train.py": f"# coding: {declared}\nA = 1\n".encode()})
    assert b"A = 1" in read_submission(folder, ALLOWED).files["train.py"]


@pytest.mark.parametrize(("encoding", "said"), [("utf-16", "UTF-16"), ("utf-16-be", "UTF-16"), ("latin-1", "Latin-1")])
def test_sources_that_are_not_in_utf8(tmp_path, encoding, said):
    text = "# Léa\nA = 1\n"
    content = (b"\xfe\xff" if encoding == "utf-16-be" else b"") + text.encode(encoding)
    declared = "# -*- coding: latin-1 -*-\nB = 'é'\n".encode("latin-1")  # which Python reads by itself
    submission = read_submission(make_folder(tmp_path / "a", {"models.py": content, "train.py": declared}), ALLOWED)
    assert submission.files["models.py"].decode().lstrip("\ufeff") == text
    assert submission.files["train.py"] == declared
    assert submission.notes == [f"models.py is in {said} and was read as such; save it as UTF-8"]


def test_checkpoints_and_documents_are_no_archives(tmp_path):
    """Weights alone, as a site hands over one file: a zip by its content."""
    (tmp_path / "best.pt").write_bytes(zip_of({"archive/data.pkl": b"x"}))
    assert list(read_submission(tmp_path / "best.pt", ALLOWED).files) == ["best.pt"]
    (tmp_path / "report.docx").write_bytes(zip_of({"word/document.xml": b"x"}))
    with pytest.raises(UserError, match=r"it holds report\.docx"):
        read_submission(tmp_path / "report.docx", ALLOWED)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("project2.zip.url", "is only a link: hand in the files that it leads to"),
        ("models.ipynb", "is a notebook, which is not read: hand in the .py files"),
        ("work.rar", "is an archive that is not read: hand in a zip"),
    ],
)
def test_what_cannot_be_read_is_named_with_a_cure(tmp_path, name, says):
    with pytest.raises(UserError, match=re.escape(f"{name!r} {says} (the folder holds none of")):
        read_submission(make_folder(tmp_path / "a", {name: b"x"}), ALLOWED)


@pytest.mark.parametrize(
    ("local", "central", "value", "says"),
    [
        (6, 8, 1, "models.py is encrypted: hand in an archive without a password"),
        (8, 10, 9, "pack it again as a plain"),
    ],
)
def test_zips_that_only_their_own_program_opens(tmp_path, local, central, value, says):
    """A password, and a method that Windows uses for large files."""
    content = bytearray(zip_of({"models.py": b"A = 1\n"}))
    content[local] = content[content.index(b"PK\x01\x02") + central] = value
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(says)):
        read_submission(tmp_path / "a.zip", ALLOWED)


def test_the_history_of_a_clone_in_a_folder(tmp_path):
    """Unpacking a zip of a clone makes it; a clone of something else next to the files is not theirs."""
    clone = make_folder(tmp_path / "a/my-project", FILES)
    git(clone, "init", "-q")
    git(clone, "add", ".")
    git(clone, "commit", "-q", "-m", "hand in")
    submission = read_submission(tmp_path / "a", ALLOWED)
    assert (submission.files, len(submission.commit)) == (FILES, 40)
    assert b"hand in" in submission.log
    (tmp_path / "a/my-project").rename(tmp_path / "a/last-year")
    for name in FILES:
        (tmp_path / "a/last-year" / name).unlink()
    make_folder(tmp_path / "a/now", FILES)
    assert read_submission(tmp_path / "a", ALLOWED).log is None
    shutil.make_archive(str(tmp_path / "b"), "zip", tmp_path / "a")
    submission = read_submission(tmp_path / "b.zip", ALLOWED)
    assert (submission.files, submission.log) == (FILES, None)
    assert "in an archive is not read" in submission.no_log
