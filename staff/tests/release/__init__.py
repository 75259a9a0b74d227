"""Tests of make_starter, check_starter and identify."""
