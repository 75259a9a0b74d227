"""What Project 2 is graded on. Runs in the trusted process; `student` answers from the sandbox."""
