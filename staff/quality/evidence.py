"""How sure a gate is: from measured values to the probability that a correct solution misses it.

The values of one solution from different starts are taken as normal. Their mean and deviation are themselves known from
few runs only, so the probabilities are those of the predictive distribution: a Student t with n - 1 degrees of freedom
and scale sd * sqrt(1 + 1 / n) (Geisser, Predictive Inference, 1993, section 2.2). Few runs therefore give honest, large
probabilities. Tries of one submission have their own starts and count as independent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from scipy.stats import t

LARGEST_FALSE_FAILURE = 1e-3  # of a correct solution at one gate, after all tries
DRIFT = 4.0  # standard errors that a new mean may lie from the stored one: by chance 6 times in 100,000


@dataclass(frozen=True)
class Evidence:
    """What was measured, one try a run.

    fails_once: fitted probability that one try misses the gate. fails: that all tries which its rule allows do.
    """

    runs: int
    mean: float
    sd: float
    least: float
    fails_once: float
    fails: float

    def toml(self, gate: str, who: str) -> str:
        """The table to keep in the assignment."""
        lines = [f"{name} = {value:.2g}" if name.startswith("fails") else f"{name} = {value:g}" for name, value in self]
        return "\n".join([f"[gate.{gate}.{who}]", *lines])

    def __iter__(self):
        return iter(asdict(self).items())


def fit(values: Sequence[float], value: float, grey: float, tries: int) -> Evidence:
    """Evidence of at least two measured values for a gate: reached from `value` on, tried again from `value - grey`."""
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    fails_once = _below(value, mean, sd, len(values))
    hopeless = _below(value - grey, mean, sd, len(values)) if tries > 1 else fails_once
    fails = hopeless + (fails_once - hopeless) * fails_once ** (tries - 1)
    return Evidence(len(values), round(mean, 4), round(sd, 4), round(min(values), 4), fails_once, fails)


def largest_gate(groups: Collection[Sequence[float]], grey: float, tries: int) -> float:
    """The largest threshold, in hundredths, that suits several groups of right solutions; 0 if there is none.

    No value that was measured lies below it, and in each group a further one misses it more rarely than
    LARGEST_FALSE_FAILURE.
    """
    least = min(map(min, groups))
    for value in (number / 100 for number in range(99, 0, -1)):
        fails = max(fit(values, value, grey, tries).fails for values in groups)
        if value <= least and fails < LARGEST_FALSE_FAILURE:
            return value
    return 0.0


def _below(value: float, mean: float, sd: float, runs: int) -> float:
    """Predictive probability that one more value lies below `value`."""
    if sd == 0:
        return float(mean < value)
    return float(t.cdf((value - mean) / (sd * math.sqrt(1 + 1 / runs)), runs - 1))


def objections(stored: dict | None, measured: Evidence) -> list[str]:
    """Why the stored evidence no longer holds; empty if it does."""
    found = []
    if measured.fails >= LARGEST_FALSE_FAILURE:
        found.append(
            f"a correct solution fails with probability {measured.fails:.2g}, allowed {LARGEST_FALSE_FAILURE:g}"
        )
    if not stored:
        return [*found, "no evidence is stored"]
    error = math.sqrt(stored["sd"] ** 2 / stored["runs"] + measured.sd**2 / measured.runs)
    if abs(measured.mean - stored["mean"]) > DRIFT * error:
        found.append(
            f"the mean is {measured.mean:.3f}, stored is {stored['mean']:.3f}: {DRIFT:g} standard errors apart"
        )
    return found
