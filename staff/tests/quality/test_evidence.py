"""The evidence behind a gate: fitted probabilities, further tries, and when a stored table is out of date."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tomllib

from staff.grader import assignment
from staff.quality import calibrate, evidence

GATES = assignment.load("project2").gates["sample"]
STOCHASTIC = [name for name in GATES if not name.endswith("extra")]


def test_probability_of_one_try_is_that_of_the_predictive_distribution():
    # Students' t by simulation: a further value of a normal whose mean and deviation are estimated from five values.
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((200_000, 6))
    mean, sd = samples[:, :5].mean(axis=1), samples[:, :5].std(axis=1, ddof=1)
    below = float((samples[:, 5] < mean - 2 * sd).mean())
    values = [0.7, 0.75, 0.8, 0.85, 0.9]
    gate = np.mean(values) - 2 * np.std(values, ddof=1)
    assert evidence.fit(values, gate, 0.0, 1).fails_once == pytest.approx(below, abs=0.002)


def test_further_tries_help_only_within_the_grey_band():
    values = [0.55, 0.6, 0.65, 0.7]
    once = evidence.fit(values, 0.5, 0.0, 1)
    assert once.fails == once.fails_once > 0.01
    no_band = evidence.fit(values, 0.5, 0.0, 3)
    assert no_band.fails == once.fails_once, "a first value below the band ends it"
    wide = evidence.fit(values, 0.5, 10.0, 3)
    assert wide.fails == pytest.approx(once.fails_once**3, rel=0.05)
    assert wide.fails < evidence.fit(values, 0.5, 0.1, 3).fails < once.fails


def test_stored_evidence_is_objected_to_when_it_no_longer_holds():
    measured = evidence.fit([0.70, 0.71, 0.72, 0.73, 0.74], 0.5, 0.1, 3)
    stored = dict(measured)
    assert evidence.objections(stored, measured) == []
    assert "stored is 0.600" in evidence.objections({**stored, "mean": 0.6}, measured)[0]
    assert evidence.objections(None, measured) == ["no evidence is stored"]
    weak = evidence.fit([0.50, 0.55, 0.6], 0.5, 0.1, 3)
    assert "fails with probability" in evidence.objections(dict(weak), weak)[0]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_every_gate_of_the_sample_stores_evidence_that_supports_it(name):
    gate = GATES[name]
    stored = gate.evidence["reference"]
    assert stored["runs"] >= 5
    assert stored["least"] <= stored["mean"]
    assert gate.value - gate.grey < stored["least"], "a first try so low would not be repeated"
    assert stored["fails"] < evidence.LARGEST_FALSE_FAILURE
    assert gate.tries <= 3
    # The stored probabilities follow from the stored mean and deviation: recomputed from values with just these.
    spread = np.linspace(-1, 1, stored["runs"])
    values = stored["mean"] + stored["sd"] * spread / np.std(spread, ddof=1)
    again = evidence.fit([float(value) for value in values], gate.value, gate.grey, gate.tries)
    assert stored["fails_once"] == pytest.approx(again.fails_once, rel=0.15)
    assert stored["fails"] == pytest.approx(again.fails, rel=0.3)


def test_a_new_gate_is_the_largest_that_is_safe_and_few_runs_give_none():
    values = [0.50, 0.47, 0.49, 0.51, 0.48, 0.50, 0.49, 0.52, 0.48, 0.50]
    gate = replace(GATES["acc_mlp"], value=math.nan, evidence={})
    text, problems = calibrate.proposal(gate, {"reference": values}, ".retinamnist")
    assert problems == []
    stored = tomllib.loads(text)["gate"]["acc_mlp"]["retinamnist"]
    assert stored["reference"]["fails"] < evidence.LARGEST_FALSE_FAILURE
    assert evidence.fit(values, stored["value"] + 0.01, gate.grey, gate.tries).fails >= evidence.LARGEST_FALSE_FAILURE
    entry = {"grey": gate.grey, "tries": gate.tries, "timeout_s": gate.timeout_s, "retinamnist": stored}
    found = assignment.gates_of({"acc_mlp": entry})["retinamnist"]["acc_mlp"]
    assert calibrate.conclusion("reference", found, values, ".retinamnist")[1] == []
    assert "2 runs are too few" in calibrate.proposal(gate, {"reference": values[:2]}, "")[1][0]


def test_a_new_gate_lies_below_the_weakest_right_solution():
    """As on the reference set: other networks than the reference reach far less, and are right."""
    gate = replace(GATES["acc_mlp"], value=math.nan, evidence={})
    reference, others = [0.54, 0.52, 0.56, 0.53, 0.55, 0.51, 0.54, 0.56], [0.55, 0.42, 0.50, 0.47, 0.38, 0.58, 0.36]
    text, problems = calibrate.proposal(gate, {"reference": reference, "alternates": others}, ".retinamnist")
    assert problems == []
    stored = tomllib.loads(text)["gate"]["acc_mlp"]["retinamnist"]
    assert stored["value"] <= min(others)
    assert max(stored[who]["fails"] for who in ("reference", "alternates")) <= evidence.LARGEST_FALSE_FAILURE
    alone = tomllib.loads(calibrate.proposal(gate, {"reference": reference}, "")[0])["gate"]["acc_mlp"]
    assert alone["value"] > max(min(others), stored["value"])


def test_on_another_data_set_the_right_solutions_are_those_that_can_be_adapted_to_it():
    retina = assignment.load("project2", "retinamnist").dataset
    right = calibrate.right_solutions(retina)
    assert right[0].name == "reference"
    assert len(right) > 10
    assert not any(variant.is_whole for variant in right)
