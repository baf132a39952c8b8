"""What the operator sees of a command: on a terminal, in a log, in GitHub Actions."""
