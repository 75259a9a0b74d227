"""Public tests of the labs, one folder a lab."""
