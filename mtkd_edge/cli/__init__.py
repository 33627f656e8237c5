"""The command line: the only part that prints and sets exit codes."""
