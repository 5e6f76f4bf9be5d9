"""What `ablation.py` measures and reports."""
