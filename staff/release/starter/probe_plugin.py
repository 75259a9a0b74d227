"""A pytest plugin that writes what became of each test as JSON lines. Runs inside the starter."""

import json
import os

import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Note every phase of a test that did not simply pass, and every call."""
    report = (yield).get_result()
    if report.when == "call" or not report.passed:
        error = None if call.excinfo is None else call.excinfo.value
        record = {
            "test": item.nodeid,
            "outcome": report.outcome,
            "error": None if error is None else type(error).__name__,
            "message": "" if error is None else str(error).split("\n")[0][:300],
            "markers": sorted({mark.name for mark in item.iter_markers()}),
        }
        _write(record)


def pytest_collectreport(report):
    """Note a test file that cannot be collected."""
    if not report.passed:
        text = str(report.longrepr).strip().split("\n")[-1][:300]
        _write({"test": report.nodeid, "outcome": "no collection", "error": "", "message": text, "markers": []})


def _write(record):
    with open(os.environ["STARTER_PROBE_FILE"], "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
