"""Submissions of every packing are read alike; hostile ones are refused or their odd parts ignored."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import zipfile

import pytest

from staff.grader import packing, repository
from staff.grader.submission import read_submission
from staff.tests.conftest import require_layer
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
    read = [read_submission(path, ALLOWED) for path in (folder, archive, nested, repository, bare)]
    assert [submission.files for submission in read] == [FILES] * 5
    assert len({submission.digest() for submission in read}) == 1
    assert read[0].ignored == ["conftest.py", "sub/numpy.py"]
    assert read[1].ignored == ["pytest.ini"]
    assert "project2-main/" in read[2].notes[0]
    assert read[3].notes == []
    assert "git commit" in read[4].notes[0]
    assert len(read[3].commit) == len(read[4].commit) == 40


def test_links_are_never_followed(tmp_path):
    secret = tmp_path / "secret.py"
    secret.write_bytes(b"secret")
    folder = make_folder(tmp_path / "folder", {"train.py": b"B = 2\n"})
    (folder / "models.py").symlink_to(secret)
    (folder / "sub").symlink_to(tmp_path)
    os.mkfifo(folder / "best.pt")
    submission = read_submission(folder, ALLOWED)
    assert submission.files == {"train.py": b"B = 2\n"}
    assert submission.ignored == ["best.pt", "models.py", "sub"]

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


def test_a_path_that_turns_back_is_ignored(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("a/../../models.py", b"?"), ("train.py", b"B = 2\n")])
    assert read_submission(archive, ALLOWED).files == {"train.py": b"B = 2\n"}


def test_bombs_stop_at_the_limit_and_damage_is_one_line(tmp_path, monkeypatch):
    bomb = make_zip(tmp_path / "bomb.zip", [("models.py", b"\0" * 50_000_000), ("train.py", b"")])
    for large in (bomb, make_folder(tmp_path / "big", {"models.py": b"#" * 1001, "train.py": b""})):
        submission = read_submission(large, ALLOWED)
        assert submission.files == {"train.py": b""}
        assert "models.py is larger than 1,000 bytes and was left out" in submission.notes[0]
    archive = make_zip(tmp_path / "a.zip", FILES.items())
    damaged = bytearray(archive.read_bytes())
    damaged[40] ^= 0xFF
    (tmp_path / "damaged.zip").write_bytes(bytes(damaged))
    with pytest.raises(UserError):
        read_submission(tmp_path / "damaged.zip", ALLOWED)
    monkeypatch.setattr(packing, "MAX_ENTRIES", 100)
    many = make_zip(tmp_path / "many.zip", ((f"f{i}", b"") for i in range(101)))
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
    # The top wins over copies further down: an old version kept in a folder is not an obstacle.
    old = make_folder(tmp_path / "old", {**FILES, "old/models.py": b"1", "old/train.py": b"2"})
    assert read_submission(old, ALLOWED).files == FILES
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    for name, words in (("empty", "none of"), ("text.txt", "none of"), ("missing", "does not exist")):
        with pytest.raises(UserError, match=words):
            read_submission(tmp_path / name, ALLOWED)


def test_what_is_handed_in_counts_and_differences_are_said(tmp_path):
    """A clone is graded by its files, committed or not; one without its files by its last commit."""
    repository = make_repository(tmp_path / "repository")
    (repository / "models.py").write_bytes(b"solved\n")
    (repository / "train.py").write_bytes(FILES["train.py"].replace(b"\n", b"\r\n"))  # as git checks out on Windows
    submission = read_submission(repository, ALLOWED)
    assert submission.files["models.py"] == b"solved\n"
    assert f"differs from git commit {submission.commit[:12]} in models.py;" in submission.notes[0]
    (repository / "models.py").unlink()
    (repository / "train.py").unlink()
    assert read_submission(repository, ALLOWED).files == FILES


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (("Ada Lovelace_1234_assignsubmission_file_models.py", "train.py"), "was read as models.py"),
        (("lovelaceada_12345_67890_models-1.py", "lovelaceada_LATE_12345_67891_train.py"), "was read as train.py"),
        (("models (1).py", "train.py"), "'models (1).py' was read as models.py"),
        (("Models.py", "TRAIN.PY"), "'Models.py' was read as models.py"),
        (("p2\\models.py", "p2\\train.py"), "found in 'p2/'"),
        (("deep/er/models.py", "deep/er/train.py", "__MACOSX/models.py", ".venv/train.py"), "found in 'deep/er/'"),
    ],
)
def test_what_sites_and_systems_do_to_names(tmp_path, names, note):
    contents = [*FILES.values(), b"junk", b"junk"]
    archive = make_zip(tmp_path / "a.zip", zip(names, contents[: len(names)], strict=True))
    submission = read_submission(archive, ALLOWED)
    assert submission.files == FILES
    assert any(note in line for line in submission.notes)


def test_other_packings(tmp_path):
    folder = make_folder(tmp_path / "folder")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(folder, "project2")
    assert read_submission(tmp_path / "a.tar.gz", ALLOWED).files == FILES
    wrapped = tmp_path / "wrapped"
    wrapped.mkdir()
    make_zip(wrapped / "solution.zip", FILES.items())
    submission = read_submission(wrapped, ALLOWED)
    assert submission.files == FILES
    assert "found in 'solution.zip'" in submission.notes[0]
    assert read_submission(folder / "models.py", ALLOWED).files == {"models.py": FILES["models.py"]}


def test_files_next_to_an_archive_count_first(tmp_path):
    """A checkpoint next to the zip of the code, as Canvas lays them; of a file in both, the loose one counts."""
    folder = make_folder(tmp_path / "folder", {"best.pt": b"weights", "train.py": b"newer"})
    make_zip(folder / "code.zip", FILES.items())
    submission = read_submission(folder, ALLOWED)
    assert submission.files == {"best.pt": b"weights", "train.py": b"newer", "models.py": FILES["models.py"]}
    assert submission.notes == ["models.py found in 'code.zip'"]
    (folder / "code.zip").write_bytes(b"damaged")
    assert set(read_submission(folder, ALLOWED).files) == {"best.pt", "train.py"}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"model.py": b""}, "did you mean models.py by 'model.py'?"),
        ({"work.7z": b""}, "'work.7z' is an archive that is not read: hand in a zip"),
        ({"report.pdf": b"", "x/notes.txt": b""}, "it holds report.pdf, x/notes.txt"),
        ({"work.zip": b"PK"}, "'work.zip' is damaged"),
        ({}, "it holds no file"),
    ],
)
def test_what_is_not_understood_says_what_is_there(tmp_path, files, says):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=re.escape(says)):
        read_submission(make_folder(tmp_path / "folder", files), ALLOWED)


def test_a_name_that_is_nearly_right_is_asked_about(tmp_path):
    submission = read_submission(make_folder(tmp_path / "a", {"train.py": b"", "mdels.py": b""}), ALLOWED)
    assert submission.notes == ["'mdels.py' was not read; did you mean models.py?"]


def test_two_names_for_one_file_are_not_guessed(tmp_path):
    folder = make_folder(tmp_path / "two", {"train.py": b"", "models (1).py": b"1", "models (2).py": b"2"})
    assert read_submission(folder, ALLOWED).files == {"train.py": b""}


def test_odd_folders_end_in_time(tmp_path):
    """Nested thousands deep, names that are not UTF-8, a pipe in .git: the files are read all the same."""
    repository = make_repository(tmp_path / "repository")
    os.mkfifo(repository / ".git/refs/heads/pipe")
    os.mkfifo(repository / ".git/pipe")
    (repository / os.fsdecode(b"\xff\xfe.py")).write_bytes(b"")
    here = os.open(repository, os.O_RDONLY)
    for _ in range(4000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        submission = read_submission(repository, ALLOWED)
        assert submission.files == FILES
        assert submission.log is not None
        assert all(name.isprintable() for name in submission.ignored)
    finally:
        subprocess.run(["rm", "-rf", repository], check=True)


GIT_PROGRAMS = (
    *("core.fsmonitor", "core.sshCommand", "core.pager", "pager.log", "diff.external", "filter.x.smudge"),
    *("gpg.program", "gpg.ssh.program", "core.editor", "core.askPass", "uploadpack.packObjectsHook", "alias.log"),
)


def sign_head(repository):
    """Replace HEAD by the same commit with a worthless signature."""
    commit = subprocess.run(["git", "cat-file", "commit", "HEAD"], cwd=repository, check=True, capture_output=True)
    head, _, body = commit.stdout.partition(b"\n\n")
    signed = head + b"\ngpgsig -----BEGIN PGP SIGNATURE-----\n x\n -----END PGP SIGNATURE-----\n\n" + body
    words = ["git", "hash-object", "-t", "commit", "-w", "--stdin"]
    made = subprocess.run(words, cwd=repository, input=signed, check=True, capture_output=True).stdout.decode().strip()
    git(repository, "update-ref", "HEAD", made)


def test_a_repository_may_not_run_commands(tmp_path):
    repository = make_repository(tmp_path / "repository")
    sign_head(repository)
    tmp_path.chmod(0o755)
    marker, script = tmp_path / "ran", tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {marker}\n")
    script.chmod(0o755)
    git(repository, "config", "log.showSignature", "true")
    for setting in GIT_PROGRAMS:
        git(repository, "config", setting, str(script) if setting != "alias.log" else f"!{script}")
    (repository / ".git/hooks").mkdir(exist_ok=True)
    for hook in ("post-checkout", "reference-transaction", "post-index-change"):
        shutil.copy(script, repository / ".git/hooks" / hook)
    (repository / ".gitattributes").write_text("*.py filter=x diff=x\n")
    submission = read_submission(repository, ALLOWED)
    assert submission.files == FILES
    assert b"hand in" in submission.log
    assert not marker.exists()
    subprocess.run(["git", "log"], cwd=repository, check=False, capture_output=True)
    assert marker.exists(), "the trap does not work, so this test shows nothing"


@pytest.mark.parametrize("layer", ["bwrap", "user", "limits"])
def test_git_runs_in_the_sandbox(tmp_path, monkeypatch, layer):
    """Whatever a config names, git can start nothing and see nothing else: here with a config of the student's."""
    submission = make_repository(tmp_path / "repository")
    sign_head(submission)
    marker, script = tmp_path / "ran", tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {marker}\n")
    script.chmod(0o755)
    hostile = f"{repository.CONFIG}[log]\n\tshowSignature = true\n[gpg]\n\tprogram = {script}\n"
    monkeypatch.setattr(repository, "CONFIG", hostile)
    with repository.opened(submission / ".git") as opened:
        opened.layer = require_layer(layer)[0]
        assert b"hand in" in opened.git("log", "--format=%s")
        with pytest.raises(UserError, match="cannot be read"):
            opened.git("hash-object", "--no-filters", str(submission / "models.py"))
    assert not marker.exists()


def test_a_repository_may_not_borrow_objects(tmp_path):
    """A commit of another repository (ours, with the solution) must not count as handed in."""
    repository = make_repository(tmp_path / "repository")
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
