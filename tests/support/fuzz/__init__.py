"""Random damage to all that users hand to DFOSD: the right result or one line, and in time. `tests/fuzz.py` runs it."""
