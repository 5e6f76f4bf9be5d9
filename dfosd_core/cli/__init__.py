"""The `dfosd` command: arguments, messages, bars, exit codes."""

OK = 0
FAILED = 1
"""Something failed and was reported; whatever else was asked for is done."""
USAGE = 2
INTERRUPTED = 130
TERMINATED = 143
