"""Layers of the sandbox that this machine offers; a missing one is a printed skip, and a failure where COURSE_CI=1."""

from __future__ import annotations

import os
import signal

import pytest

from staff.grader import sandbox
from staff.tests import browsing, grading_tools

# Started in the background of a script, pytest inherits that Ctrl-C is ignored, and so would the programs it tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Each layer as it is used, and bubblewrap without the two that work from inside, so that it is tried by itself.
LAYERS = {"bwrap": (), "bwrap alone": ("landlock", "seccomp"), "user": (), "limits": ()}
_reasons: dict[str, str] = {}


def require_layer(name: str) -> tuple[str, tuple[str, ...]]:
    """(layer, what it is used without); skips or fails the test if the layer cannot be used here."""
    layer = name.split()[0]
    if layer not in _reasons:
        _reasons[layer] = sandbox.check_layer(layer)
    if _reasons[layer]:
        root_only = layer == "user" and os.geteuid() != 0
        if os.environ.get("COURSE_CI") == "1" and not root_only:
            pytest.fail(f"layer {layer} must be available in CI: {_reasons[layer]}")
        pytest.skip(_reasons[layer])
    return layer, LAYERS[name]


@pytest.fixture(params=LAYERS)
def layer(request):
    return require_layer(request.param)


@pytest.fixture(scope="session")
def starter_folder(tmp_path_factory):
    """The unfilled starter as students get it."""
    return grading_tools.starter(tmp_path_factory.mktemp("starter"))


@pytest.fixture(scope="session")
def starter_graded(tmp_path_factory, starter_folder):
    """The unfilled starter, graded with all outputs."""
    return grading_tools.grade(starter_folder, tmp_path_factory.mktemp("starter-graded"))


@pytest.fixture(scope="session")
def reference_graded(tmp_path_factory):
    """The reference solution with its checkpoints, graded with all outputs; about a minute."""
    folder = tmp_path_factory.mktemp("reference")
    return grading_tools.grade(grading_tools.reference(folder / "submission"), folder)


@pytest.fixture(scope="session")
def browser():
    """One for all tests of pages."""
    chrome = browsing.start()
    yield chrome
    chrome.quit()
