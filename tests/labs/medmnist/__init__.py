"""Tests of labs/medmnist_experiments."""
