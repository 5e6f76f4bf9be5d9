"""Stable Diffusion's UNet and autoencoder in plain torch, and reading their weights from disk."""
