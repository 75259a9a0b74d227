"""Everything that the course claims about one GPU, measured in one run; see `__main__.py`."""
