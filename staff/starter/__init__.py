"""What staff.make_starter and staff.check_starter are made of: from the reference solution to a student's repository."""
