"""Is this machine ready for the course? Prints a line for each thing, with the cure where something is wrong.

    python check_installation.py

Exit code 0: ready (warnings are explained and can be lived with); 1: something must be fixed first.

The checks run in a second process: a broken package may end Python itself (an illegal instruction, two OpenMP
runtimes), and then this one still says which. Python 3.7 and later can read it and say that they are too old.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 10)
INSTALL = "python -m pip install -r requirements.txt"
REINSTALL_TORCH = "python -m pip uninstall -y torch torchvision, then " + INSTALL
MODULES = {"scikit-learn": "sklearn", "scikit-image": "skimage", "pillow": "PIL", "opencv-python": "cv2"}
STEP = "\0step "  # how the second process tells the first what it is about to do
GIGABYTE = 1e9
ENOUGH_DISK, LITTLE_DISK = 2 * GIGABYTE, 0.2 * GIGABYTE  # a data set has 0.2 GB, a run folder a few MB
GPU_PACKAGES, CPU_PACKAGES = 6.5 * GIGABYTE, 1.5 * GIGABYTE  # installed; pip brings the GPU libraries on Linux only
ENOUGH_MEMORY = 2 * GIGABYTE
NETWORK_LIMIT_S = 3.0

failures = 0


def ok(name: str, detail: str) -> None:
    """Something is as it should be."""
    print(f"ok       {name}: {detail}", flush=True)


def warn(name: str, detail: str, cure: str) -> None:
    """Something is not as it could be."""
    print(f"warning  {name}: {detail}\n         -> {cure}", flush=True)


def fail(name: str, detail: str, cure: str) -> None:
    """Something must be fixed."""
    global failures
    failures += 1
    print(f"FAIL     {name}: {detail}\n         -> {cure}", flush=True)


def first_line(error: BaseException) -> str:
    """What an exception says, without its further lines."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_python() -> None:
    """Version, and whether packages go into their own environment."""
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        fail("Python", f"{version} is too old", f"install Python {wanted} or later and make a new environment with it")
    else:
        ok("Python", f"{version} on {platform.system()} {platform.machine()}")
    if sys.prefix == sys.base_prefix and not os.environ.get("CONDA_PREFIX"):
        warn("Python", "no virtual environment is active", "make one: conda create -n course python=3.11 (README.md)")


def requirements(path: Path) -> list[tuple[str, str, str]]:
    """(distribution, versions allowed, the whole line) for each line that names a package."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        match = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)([^;]*)", line)
        if match:  # neither empty nor an option of pip
            found.append((match.group(1), match.group(2).strip(), line))
    return found


def applies_and_fits(line: str, version: str) -> tuple[bool, bool]:
    """Does a requirement concern this machine, and is the version allowed? Yes to both if it cannot be told."""
    for module in ("packaging.requirements", "pip._vendor.packaging.requirements"):
        try:
            requirement = importlib.import_module(module).Requirement(line)
        except ImportError:
            continue
        applies = requirement.marker is None or requirement.marker.evaluate()
        return applies, requirement.specifier.contains(version, prereleases=True)
    return True, True


def check_packages(path: Path) -> None:
    """Import what requirements.txt lists, one after the other, and compare the versions."""
    if not path.exists():
        return fail("packages", f"{path} is missing", "run this in a complete copy of the repository")
    # torch first: torchvision and medmnist import it, and would be blamed for what is wrong with it.
    order = {"torch": 0, "torchvision": 1}
    for name, allowed, line in sorted(requirements(path), key=lambda item: order.get(item[0].lower(), 2)):
        check_package(name, allowed, line)
    return None


def check_package(name: str, allowed: str, line: str) -> None:
    """One package."""
    from importlib import metadata  # Python 3.7 has none, and does not come here

    print(f"{STEP}import {name}", flush=True)
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = None
    if not applies_and_fits(line, version or "0")[0]:
        return
    wanted = f" (allowed: {allowed})" if allowed else ""
    try:
        # With a broken torchvision, medmnist prints that its own requirements are missing, and continues.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(MODULES.get(name.lower(), name.replace("-", "_")))
    except ModuleNotFoundError as error:
        missing = f"is not installed{wanted}" if version is None else f"needs the module {error.name}, which is missing"
        fail(name, missing, INSTALL)
    except (Exception, SystemExit) as error:  # whatever a package does at import is to be reported, not to stop us
        fail(name, f"{version or 'unknown version'} cannot be imported ({first_line(error)})", import_cure(name, error))
    else:
        version = version or getattr(module, "__version__", "unknown version")
        if version[0].isdigit() and not applies_and_fits(line, version)[1]:
            fail(name, f"{version} is outside of what is allowed: {allowed}", INSTALL)
        else:
            ok(name, f"{version}{wanted}")


def import_cure(name: str, error: BaseException) -> str:
    """What helps against the usual reasons of a failing import."""
    text = str(error)
    if "torchvision::nms" in text or (name == "torchvision" and "undefined symbol" in text):
        # Such as a CPU build of torch next to a CUDA build of torchvision. medmnist then reports a failed download.
        return "torch and torchvision are of different builds; reinstall them as a pair: " + REINSTALL_TORCH
    if os.name == "nt" and isinstance(error, OSError):
        return "install the Microsoft Visual C++ Redistributable (x64), then " + INSTALL
    return f"python -m pip install --force-reinstall {name}"


def check_device() -> None:
    """What the default device is, and which precision is fast on it."""
    print(f"{STEP}look for devices", flush=True)
    try:
        import torch

        from toolkit.devices import describe, pick_device, resolve_precision
    except (Exception, SystemExit) as error:
        return fail("device", f"torch cannot be used ({first_line(error)})", "fix torch first, see above")
    device = pick_device()
    detail = f"{describe(device)}; --precision auto means {resolve_precision('auto', device)}"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        total = torch.cuda.get_device_properties(device).total_memory
        detail += f"; compute capability {major}.{minor}, bfloat16 {'yes' if major >= 8 else 'no'}"
        detail += f", {total / GIGABYTE:.0f} GB, CUDA {torch.version.cuda}"
    elif device.type == "cpu":
        detail += f"; AVX512_BF16 {processor_has('avx512_bf16')}, AMX {processor_has('amx_tile')}"
    ok("device", detail)
    if device.type == "cpu" and shutil.which("nvidia-smi"):
        cure = "update the driver, or reinstall torch as its home page says for your CUDA version"
        warn("device", f"there is an NVIDIA driver, but torch {torch.__version__} sees no GPU", cure)
    return None


def processor_has(feature: str) -> str:
    """yes, no or unknown, as torch says; these questions are not part of its documented interface."""
    import torch

    question = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return "unknown" if question is None else "yes" if question() else "no"


def check_training_step() -> None:
    """A convolution forward and backward on the default device, in the default precision."""
    print(f"{STEP}train for one step", flush=True)
    try:
        import torch

        from toolkit.devices import autocast, pick_device, place_model, resolve_precision
    except (Exception, SystemExit):
        return None  # reported by check_device
    device = pick_device()
    precision = resolve_precision("auto", device)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(9))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images = torch.rand(4, 3, 28, 28, device=device)
            model(torch.rand(1, 3, 28, 28))  # gives the lazy layer its size
            with autocast(device, precision):
                loss = place_model(model, device)(images).square().mean()
            loss.backward()
            finite = all(bool(weight.grad.isfinite().all()) for weight in model.parameters())
    except Exception as error:
        cure = "train with --device cpu" if device.type != "cpu" else REINSTALL_TORCH
        return fail("training step", f"{device}, {precision}: {first_line(error)}", cure)
    if not finite:
        return fail("training step", f"{device}, {precision}: infinite gradients", "train with --precision float32")
    return ok("training step", f"forward and backward on {device} in {precision}")


def check_disk(data_root: Path) -> None:
    """Free space where packages, data and results go, and whether files can be made there."""
    places = {"results folder": Path(), "data folder": data_root}
    if importlib.util.find_spec("torch") is None:
        places["packages"] = Path(sys.prefix)
    packages = (CPU_PACKAGES, GPU_PACKAGES if platform.system() == "Linux" else CPU_PACKAGES)
    for name, folder in places.items():
        little, enough = packages if name == "packages" else (LITTLE_DISK, ENOUGH_DISK)
        while not folder.exists():  # made when it is needed
            folder = folder.parent
        try:
            with tempfile.TemporaryFile(dir=str(folder)):
                pass
        except OSError as error:
            fail(name, f"{folder.resolve()}: {error.strerror}", "work in a folder that you may write to")
            continue
        free = shutil.disk_usage(str(folder)).free
        detail = f"{free / GIGABYTE:.1f} GB free on the disk of {folder.resolve()} (a quota may leave you less)"
        if free < little:
            fail(name, f"{detail}; {little / GIGABYTE:.1f} GB are needed", "free some space: conda clean --all")
        elif free < enough:
            lean = f"enough without GPU libraries: see README.md ({enough / GIGABYTE:.1f} GB with them)"
            warn(name, detail, lean if name == "packages" else "enough for short runs; free some space for more")
        else:
            ok(name, detail)


def check_memory() -> None:
    """Memory that is free now."""
    free = free_memory()
    if free is None:
        ok("memory", "not known here without the package psutil")
    elif free < ENOUGH_MEMORY:
        warn("memory", f"{free / GIGABYTE:.1f} GB free", "close other programs; the bundled sample needs about 1 GB")
    else:
        ok("memory", f"{free / GIGABYTE:.1f} GB free")


def free_memory() -> float | None:
    """Bytes, from psutil or else from the Linux kernel; None where neither tells."""
    with contextlib.suppress(ImportError):
        import psutil

        return psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return None


def check_data(data_root: Path) -> None:
    """Where the assignment's images would come from: a file, a download, or what is bundled. Changes nothing."""
    print(f"{STEP}look for the data", flush=True)
    try:
        from toolkit import download, medmnist_catalog, medmnist_data
    except ModuleNotFoundError as error:
        return fail("data", f"{error.name} is missing", "fix the packages above first")
    except (Exception, SystemExit) as error:
        return fail("data", f"the data tools cannot be imported ({first_line(error)})", "fix the packages above first")
    try:
        flag = next(iter(medmnist_catalog.bundled_flags()), "pathmnist")
        address = medmnist_data.download_address(flag)
        sample = medmnist_data.locate(flag, dataset="sample")
    # A package is missing, a bundle is damaged, a mirror is not an address.
    except (medmnist_data.DataError, ImportError) as error:
        return fail("data", first_line(error), "fix what this line names")
    try:
        source = medmnist_data.inspect(flag, data_root=data_root)
        if source is not None:
            return ok("data", f"{source.name} is in {data_root}")
    except medmnist_data.DataError as error:
        warn("data", first_line(error), "move that file away or put the official one in its place")
    if not sample.is_sample:
        return ok("data", f"the official {flag} is bundled ({sample.count('train')} labelled training images)")
    no_network = download.unreachable(address, NETWORK_LIMIT_S)
    if no_network is None:
        ok("data", f"the full {flag} will be downloaded at the first run from {address}")
    else:
        cure = f"the bundled sample is used; for the full set put {flag}.npz into {data_root}"
        warn("data", f"the full {flag} cannot be downloaded: {no_network}", cure)
    return ok("data", f"{sample.name} is bundled ({sample.count('train')} labelled training images)")


def run_checks(data_root: Path, requirements_path: Path) -> int:
    """All checks in order, in this process; a check that fails in an unforeseen way is reported like the others."""
    sys.path.insert(0, str(ROOT))
    checks = [check_python]
    if sys.version_info >= OLDEST_PYTHON:
        checks += [lambda: check_packages(requirements_path), check_device, check_training_step]
        checks += [lambda: check_data(data_root)]
    for check in [*checks, lambda: check_disk(data_root), check_memory]:
        try:
            check()
        except Exception as error:
            where = f"{type(error).__name__}: {first_line(error)}"
            fail("check", f"unforeseen ({where})", f"{INSTALL}; if it stays, show this line to the course staff")
    return 1 if failures else 0


def main() -> int:
    """Run the checks in a second process and say so if it dies."""
    parser = argparse.ArgumentParser(description="Is this machine ready for the course?")
    parser.add_argument("--data_root", type=Path, default=Path("data"), help="folder of the data sets (default: data)")
    parser.add_argument("--requirements", type=Path, default=ROOT / "requirements.txt", help="packages to check")
    parser.add_argument("--in_this_process", action="store_true", help="do not start a second process")
    args = parser.parse_args()
    if args.in_this_process:
        return run_checks(args.data_root, args.requirements)
    command = [sys.executable, str(Path(__file__).resolve()), "--in_this_process"]
    command += ["--data_root", str(args.data_root), "--requirements", str(args.requirements)]
    step, problems = "start", 0
    with tempfile.TemporaryFile() as noise:  # what libraries print while they are imported
        pipes = {"stdout": subprocess.PIPE, "stderr": noise, "encoding": "utf-8", "errors": "replace"}
        with subprocess.Popen(command, env={**os.environ, "PYTHONIOENCODING": "utf-8"}, **pipes) as process:
            for line in process.stdout:
                if line.startswith(STEP):
                    step = line[len(STEP) :].strip()
                else:
                    problems += line.startswith("FAIL")
                    print(line, end="", flush=True)
        noise.seek(0)
        last_words = (noise.read().decode("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
    if process.returncode not in (0, 1):
        problems += 1
        name = step.rpartition(" ")[2] if step.startswith("import ") else "torch"
        cure = f"python -m pip install --force-reinstall {name}"
        fail(step, f"Python ended with code {process.returncode} ({last_words})", cure)
    print(f"{problems} problems to fix; see FAIL above" if problems else "ready; next: python -m tests")
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader has seen enough: python check_installation.py | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
