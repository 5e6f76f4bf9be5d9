"""From photographs to batches of crops."""
