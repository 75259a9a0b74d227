"""How every benchmark prints: the setting first, then rows of two numbers and their ratio, with the goal."""

from __future__ import annotations

import torch

from toolkit.devices import describe


def show_setting(text: str) -> None:
    """One line on what is measured, one on what it runs on."""
    print(f"{text}\ntorch {torch.__version__}, {describe(torch.device('cpu'))}")


def show_ratio(name: str, ours: float, other: float, unit: str, our_name: str, other_name: str, goal: float) -> bool:
    """Print one row, higher is better on both sides; return True if ours / other reaches the goal."""
    ratio = ours / other
    verdict = "met" if ratio >= goal else "NOT MET"
    values = f"{our_name} {ours:>10,.0f} {unit}   {other_name} {other:>9,.0f} {unit}"
    print(f"{name:<24} {values}   {ratio:6.1f} times (goal {goal:g}: {verdict})", flush=True)
    return ratio >= goal
