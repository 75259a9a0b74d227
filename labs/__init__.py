"""One room a lab, each with a README; started from the root of the repository with `python -m labs.ROOM.SCRIPT`."""
