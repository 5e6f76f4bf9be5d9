"""Cutting maps into tiles, and running a stage over them."""
