"""What make_starter and check_starter are made of: from the reference solution to a student's repository."""
