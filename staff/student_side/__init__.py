"""What runs in the student's process, and what both processes share; nothing of the grader is imported here."""
