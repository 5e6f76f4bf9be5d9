"""Measurements of our own programs, in the process's settings that these have."""

from dfosd_core.cli.caches import bound_caches

bound_caches()  # before any of them imports torch, as the command does
