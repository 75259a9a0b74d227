"""How good is the grader? Attacks, right solutions, typical mistakes, measured gates."""
