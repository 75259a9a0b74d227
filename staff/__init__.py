"""Tools of the staff: releases, grading and what proves them. Never ships to students."""
