"""What a training run can be told, and how files and flags become it."""
