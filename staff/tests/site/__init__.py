"""The course site."""
