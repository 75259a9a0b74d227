"""One folder for each assignment; course.toml holds what changes from term to term."""
