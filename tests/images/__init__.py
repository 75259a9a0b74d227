"""Tests of toolkit/images."""
