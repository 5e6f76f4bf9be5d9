"""The runs of `ablation.py`, their scores and its report."""
