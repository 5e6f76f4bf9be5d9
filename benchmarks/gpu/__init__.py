"""What to run on a graphics card, in checks of at most four minutes each (docs/gpu.md)."""
