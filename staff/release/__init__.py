"""What leaves this repository: starters and the grader's package."""
