"""A new assignment from templates: what `python -m staff.new_assignment` writes."""
