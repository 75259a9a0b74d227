"""The trusted process: hidden data, sandbox, checks, points, feedback."""
