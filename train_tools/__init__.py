"""Recipes that train DFOSD's weights: thin loops over `dfosd_core.training`."""
