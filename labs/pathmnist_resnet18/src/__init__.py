"""The study of PathMNIST at 64 pixels."""

from pathlib import Path

LAB = Path(__file__).resolve().parent.parent  # configs/, figures/, notebooks/ and reports/ are in it
