"""The `dfosd` command: arguments, messages, bars, exit codes."""
