"""check_installation.py run as a script in environments that are really broken: missing, fake and aborting packages."""

from __future__ import annotations

import ast
import json
import os
import socket
import subprocess
import sys
import venv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import check_installation
from tests.misbehaving_server import MisbehavingServer
from toolkit import medmnist_catalog

pytestmark = pytest.mark.provided

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "check_installation.py"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder searched before the installed packages. Its torch is a wreck, which also keeps the tests fast."""
    folder = tmp_path / "site"
    fake(folder, "torch", "raise ImportError('libcudnn.so.9: cannot open shared object file')")
    return folder


def fake(folder: Path, name: str, code: str, version: str | None = None) -> None:
    """Put a package with this code and, on request, this version in the way of the real one."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    if version:
        (folder / f"{name}-{version}.dist-info").mkdir()
        (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")


def check(
    tmp_path: Path,
    *,
    requirements: str = "numpy>=1.26\n",
    site: Path | None = None,
    python: str | Path = sys.executable,
    mirror: str | None = None,
    data_root: Path | None = None,
) -> tuple[int, dict[str, list[str]]]:
    """Run the script; return its exit code and, for each thing checked, its lines ("FAIL ... -> cure")."""
    (tmp_path / "requirements.txt").write_text(requirements)
    environment = {**os.environ, "no_proxy": "127.0.0.1", "PYTHONPATH": str(site or "")}
    environment["MEDMNIST_MIRROR"] = mirror or closed_address()
    command = [python, SCRIPT, "--requirements", tmp_path / "requirements.txt"]
    command += ["--data_root", data_root or tmp_path / "data"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "Traceback" not in result.stdout + result.stderr
    assert result.stderr == ""
    lines: dict[str, list[str]] = {}
    for line in result.stdout.replace("\n         -> ", " -> ").splitlines():
        name = line[9:].split(": ")[0]
        lines.setdefault(name, []).append(line)
        if line.startswith(("FAIL", "warning")):
            assert " -> " in line, "what is wrong comes with its cure"
    lines["end"] = [result.stdout.splitlines()[-1]]
    return result.returncode, lines


def closed_address() -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_this_machine_is_ready(tmp_path):
    code, lines = check(tmp_path, requirements="# real ones\ntorch>=2\ntorchvision\nmedmnist>=3  # labels\nnumpy\n")
    assert code == 0, lines
    assert lines["torch"][0].startswith("ok       torch: ")
    assert "(allowed: >=2)" in lines["torch"][0]
    assert "--precision auto means" in lines["device"][0]
    assert lines["training step"][0].startswith("ok       training step: forward and backward on ")
    assert "no connection to 127.0.0.1" in lines["data"][0]
    assert lines["data"][1].startswith("ok       data: pathmnist-sample is bundled")
    assert lines["end"] == ["ready; next: python -m tests"]


def test_the_mismatched_pair_is_recognised(tmp_path, broken):
    fake(broken, "torchvision", "raise RuntimeError('operator torchvision::nms does not exist')", "0.28.0")
    code, lines = check(tmp_path, requirements="torchvision\nmedmnist\n", site=broken)
    assert code == 1
    assert "0.28.0 cannot be imported (operator torchvision::nms does not exist)" in lines["torchvision"][0]
    assert "torch and torchvision are of different builds" in lines["torchvision"][0]
    assert "-> " in lines["torchvision"][0]
    assert "pip uninstall -y torch torchvision" in lines["torchvision"][0]


def test_a_package_that_fails_at_import_is_named_and_the_rest_is_checked(tmp_path, broken):
    code, lines = check(tmp_path, requirements="numpy\ntorch\n", site=broken)
    assert code == 1
    assert "cannot be imported (libcudnn.so.9: cannot open shared object file)" in lines["torch"][0]
    assert lines["numpy"][0] == f"ok       numpy: {np.__version__}"
    assert lines["device"][0].startswith("FAIL     device: torch cannot be used (libcudnn.so.9")
    assert lines["data"][-1].startswith("ok       data: pathmnist-sample is bundled"), "the data need no torch"


def test_a_machine_without_any_package_gets_a_full_report(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False, symlinks=os.name != "nt")
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    code, lines = check(tmp_path, requirements="torch>=2.14\nnumpy\nmedmnist\n", python=python)
    assert code == 1
    assert lines["end"] == ["5 problems to fix; see FAIL above"]
    for name in ("torch", "numpy", "medmnist"):
        assert lines[name][0].startswith(f"FAIL     {name}: is not installed")
        assert lines[name][0].endswith("-> python -m pip install -r requirements.txt")
    assert "torch cannot be used" in lines["device"][0]
    assert "filelock is missing -> fix the packages above first" in lines["data"][0]
    assert "results folder" in lines
    assert "memory" in lines


def test_a_version_out_of_range_is_told_with_the_range(tmp_path, broken):
    fake(broken, "tqdm", "", "1.2.3")
    code, lines = check(tmp_path, requirements="tqdm>=4.60,<5\n", site=broken)
    assert code == 1
    assert lines["tqdm"] == [
        "FAIL     tqdm: 1.2.3 is outside of what is allowed: >=4.60,<5 -> python -m pip install -r requirements.txt"
    ]


def test_requirements_of_other_systems_are_passed_over(tmp_path, broken):
    _, lines = check(tmp_path, requirements='no-such-package>=1 ; sys_platform == "plan9"\nnumpy\n', site=broken)
    assert "no-such-package" not in lines
    assert "numpy" in lines


def test_a_package_that_ends_python_is_still_named(tmp_path, broken):
    fake(broken, "tqdm", "import os, sys\nprint('OMP: Error #15', file=sys.stderr, flush=True)\nos.abort()", "4.66")
    code, lines = check(tmp_path, requirements="numpy\ntqdm\n", site=broken)
    assert code == 1
    assert lines["numpy"][0].startswith("ok")
    assert lines["import tqdm"][0].startswith("FAIL     import tqdm: Python ended with code ")
    assert "OMP: Error #15" in lines["import tqdm"][0]


def test_a_package_that_exits_is_named(tmp_path, broken):
    fake(broken, "tqdm", "raise SystemExit('no licence')", "4.66")
    code, lines = check(tmp_path, requirements="tqdm\n", site=broken)
    assert code == 1
    assert "4.66 cannot be imported (no licence)" in lines["tqdm"][0]


@pytest.mark.parametrize("flags", [[], ["--in_this_process"]])
def test_a_missing_list_of_requirements_is_told(flags, tmp_path, broken):
    environment = {**os.environ, "PYTHONPATH": str(broken), "MEDMNIST_MIRROR": closed_address()}
    command = [sys.executable, SCRIPT, "--requirements", tmp_path / "none.txt", *flags]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert "FAIL     packages: " in result.stdout
    assert "none.txt is missing" in result.stdout


def test_a_network_is_reported(tmp_path, broken):
    with MisbehavingServer({}) as server:
        _, lines = check(tmp_path, site=broken, mirror=server.address)
        assert server.requests == [], "a connection is enough"
    assert lines["data"][0].endswith(f"will be downloaded at the first run from {server.url('pathmnist.npz')}")


def test_the_data_are_those_that_the_assignment_bundles(tmp_path, monkeypatch, capsys):
    records = json.loads(medmnist_catalog.MANIFEST.read_text(encoding="utf-8"))["files"]
    official = [record for record in records if record["flag"] == "pneumoniamnist"]
    (tmp_path / "manifest.json").write_text(json.dumps({"files": official}), encoding="utf-8")
    monkeypatch.setattr(medmnist_catalog, "MANIFEST", tmp_path / "manifest.json")
    check_installation.check_data(tmp_path)
    assert "ok       data: the official pneumoniamnist is bundled (4708 labelled" in capsys.readouterr().out


def test_a_bad_file_is_reported_and_left_alone(tmp_path, broken):
    path = tmp_path / "data" / "pathmnist.npz"
    path.parent.mkdir()
    path.write_bytes(b"not a zip")
    _, lines = check(tmp_path, site=broken)
    assert lines["data"][0].startswith("warning  data: ")
    assert "pathmnist.npz is truncated or is not an npz file" in lines["data"][0]
    assert path.read_bytes() == b"not a zip"


def test_a_data_folder_that_is_a_file_is_reported(tmp_path, broken):
    (tmp_path / "file").write_text("")
    code, lines = check(tmp_path, site=broken, data_root=tmp_path / "file")
    assert code == 1
    assert lines["data folder"][0].startswith("FAIL     data folder: ")


@pytest.mark.skipif(os.name == "nt", reason="no head there")
def test_a_reader_that_leaves_early_sees_no_traceback(tmp_path, broken):
    (tmp_path / "requirements.txt").write_text("numpy\n" * 200)
    environment = {**os.environ, "PYTHONPATH": str(broken), "MEDMNIST_MIRROR": closed_address()}
    command = [sys.executable, SCRIPT, "--requirements", tmp_path / "requirements.txt"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""


def test_old_pythons_can_read_it():
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 7))


@pytest.mark.parametrize(
    ("system", "free_gb", "lines"),
    [
        ("Linux", 20, ["ok       packages: 20.0 GB free"]),
        ("Linux", 3, ["warning  packages: 3.0 GB free", "enough without GPU libraries", "(6.5 GB with them)"]),
        ("Windows", 3, ["ok       packages: 3.0 GB free"]),
        ("Windows", 1, ["FAIL     packages: 1.0 GB free", "1.5 GB are needed"]),
    ],
)
def test_room_for_the_packages_is_told_before_they_are_installed(monkeypatch, capsys, system, free_gb, lines):
    monkeypatch.setattr(check_installation.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(check_installation.platform, "system", lambda: system)
    monkeypatch.setattr(check_installation.shutil, "disk_usage", lambda path: SimpleNamespace(free=free_gb * 1e9))
    check_installation.check_disk(Path("data"))
    printed = capsys.readouterr().out
    assert [line for line in lines if line not in printed] == []
