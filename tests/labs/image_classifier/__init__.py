"""Tests of labs/image_classifier."""
