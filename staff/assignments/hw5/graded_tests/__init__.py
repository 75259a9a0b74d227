"""Checks of Homework 5: mechanisms on drawn data, figures, written answers."""
