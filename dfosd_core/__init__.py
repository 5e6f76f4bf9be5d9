"""DFOSD, one-step diffusion super-resolution: the method alone. No host, no screen."""
