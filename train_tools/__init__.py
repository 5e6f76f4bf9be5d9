"""Recipes that train DFOSD's weights: thin loops over `dfosd_core.training`."""

import os

# OpenMP reads it when torch is loaded, so before any program here imports torch. Its default lets waiting threads spin:
# with one other busy process a step of the small configuration took 38 s instead of 0.8.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
