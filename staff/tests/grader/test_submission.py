"""Submissions of every packing are read alike; hostile ones are refused or their odd parts ignored."""

from __future__ import annotations

import os
import subprocess
import zipfile

import pytest

from staff.grader.submission import read_submission
from toolkit.errors import UserError

ALLOWED = {"models.py": 1000, "train.py": 1000, "best.pt": 5000}
FILES = {"models.py": b"A = 1\n", "train.py": b"B = 2\n"}


def make_folder(root, files=FILES):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def make_repository(root):
    make_folder(root)
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "hand in")
    return root


def test_folder_zip_and_repository_are_the_same_submission(tmp_path):
    folder = make_folder(tmp_path / "folder", {**FILES, "conftest.py": b"x", "sub/numpy.py": b"x"})
    archive = make_zip(tmp_path / "a.zip", [*FILES.items(), ("pytest.ini", b"x")])
    nested = make_zip(tmp_path / "n.zip", [(f"project2-main/{k}", v) for k, v in FILES.items()])
    repository = make_repository(tmp_path / "repository")
    bare = tmp_path / "bare.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(repository), str(bare)], check=True, capture_output=True)
    (repository / "models.py").write_bytes(b"not committed\n")
    read = [read_submission(path, ALLOWED) for path in (folder, archive, nested, repository, bare)]
    assert [submission.files for submission in read] == [FILES] * 5
    assert len({submission.digest() for submission in read}) == 1
    assert read[0].ignored == ["conftest.py", "sub/numpy.py"]
    assert read[1].ignored == ["pytest.ini"]
    assert "project2-main/" in read[2].notes[0]
    assert "git commit" in read[3].notes[0]


def test_links_are_never_followed(tmp_path):
    secret = tmp_path / "secret.py"
    secret.write_bytes(b"secret")
    folder = make_folder(tmp_path / "folder", {"train.py": b"B = 2\n"})
    (folder / "models.py").symlink_to(secret)
    (folder / "sub").symlink_to(tmp_path)
    os.mkfifo(folder / "best.pt")
    submission = read_submission(folder, ALLOWED)
    assert submission.files == {"train.py": b"B = 2\n"}
    assert submission.ignored == ["best.pt", "models.py"]

    link = zipfile.ZipInfo("models.py")
    link.external_attr = 0o120777 << 16
    archive = make_zip(tmp_path / "a.zip", [(link, str(secret)), ("train.py", b"B = 2\n")])
    assert read_submission(archive, ALLOWED).files == {"train.py": b"B = 2\n"}

    repository = tmp_path / "repository"
    make_folder(repository, {"train.py": b"B = 2\n"})
    (repository / "models.py").symlink_to(secret)
    git(repository, "init", "-q")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "x")
    assert read_submission(repository, ALLOWED).files == {"train.py": b"B = 2\n"}


@pytest.mark.parametrize("name", ["../models.py", "/models.py", "a/../../models.py", "..\\models.py"])
def test_paths_that_leave_the_archive_are_ignored(tmp_path, name):
    archive = make_zip(tmp_path / "a.zip", [(name, b"evil"), ("train.py", b"B = 2\n")])
    assert read_submission(archive, ALLOWED).files == {"train.py": b"B = 2\n"}


def test_bombs_stop_at_the_limit_and_damage_is_one_line(tmp_path):
    bomb = make_zip(tmp_path / "bomb.zip", [("models.py", b"\0" * 50_000_000), ("train.py", b"")])
    with pytest.raises(UserError, match="larger than 1,000 bytes"):
        read_submission(bomb, ALLOWED)
    with pytest.raises(UserError, match="larger than"):
        read_submission(make_folder(tmp_path / "big", {"models.py": b"#" * 1001}), ALLOWED)
    archive = make_zip(tmp_path / "a.zip", FILES.items())
    damaged = bytearray(archive.read_bytes())
    damaged[40] ^= 0xFF
    (tmp_path / "damaged.zip").write_bytes(bytes(damaged))
    with pytest.raises(UserError):
        read_submission(tmp_path / "damaged.zip", ALLOWED)
    many = make_zip(tmp_path / "many.zip", ((f"f{i}", b"") for i in range(50_001)))
    with pytest.raises(UserError, match="more than"):
        read_submission(many, ALLOWED)


def test_ambiguous_or_empty_submissions_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = make_zip(tmp_path / "twice.zip", [("models.py", b"1"), ("models.py", b"2")])
    with pytest.raises(UserError, match="twice"):
        read_submission(twice, ALLOWED)
    two = make_folder(tmp_path / "two", {"a/models.py": b"1", "b/models.py": b"2"})
    with pytest.raises(UserError, match="'a/' and in 'b/'"):
        read_submission(two, ALLOWED)
    # The top wins over copies further down: an old version kept in a folder is no obstacle.
    old = make_folder(tmp_path / "old", {**FILES, "old/models.py": b"1", "old/train.py": b"2"})
    assert read_submission(old, ALLOWED).files == FILES
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    for name, words in (("empty", "none of"), ("text.txt", "neither"), ("missing", "does not exist")):
        with pytest.raises(UserError, match=words):
            read_submission(tmp_path / name, ALLOWED)


def test_a_repository_may_not_run_commands_or_borrow_objects(tmp_path):
    repository = make_repository(tmp_path / "repository")
    marker = tmp_path / "ran"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {marker}\n")
    script.chmod(0o755)
    for setting in ("core.fsmonitor", "core.sshCommand", "core.pager", "diff.external", "filter.x.smudge"):
        git(repository, "config", setting, str(script))
    assert read_submission(repository, ALLOWED).files == FILES
    assert not marker.exists()
    # A commit of somebody else's repository (ours, with the solution) must not count as handed in.
    thief = tmp_path / "thief"
    thief.mkdir()
    git(thief, "init", "-q")
    (thief / ".git/objects/info").mkdir(exist_ok=True)
    (thief / ".git/objects/info/alternates").write_text(f"{repository}/.git/objects\n")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, check=True, capture_output=True).stdout
    (thief / ".git/HEAD").write_bytes(commit)
    with pytest.raises(UserError, match="borrows"):
        read_submission(thief, ALLOWED)
    (thief / ".git/objects/info/alternates").unlink()
    (thief / ".git/objects/link").symlink_to(repository / ".git/objects")
    with pytest.raises(UserError, match="symbolic links"):
        read_submission(thief, ALLOWED)
