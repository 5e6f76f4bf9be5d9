"""What the convolutions of our networks see beyond the border of their map: zeros or, in the embedded base, repetition.

Stable Diffusion pads with zeros, which is black in the middle of a bright sky: the pixels along the border of a flat
picture come out wrong. With the outermost values repeated in every convolution a flat picture stays exactly flat.
"""

from __future__ import annotations

from torch import nn

from .layers import Downsample


def repeat_borders(network: nn.Module) -> None:
    """Let every convolution below `network` see the outermost values of its map repeated."""
    for layer in network.modules():
        if isinstance(layer, Downsample) or (isinstance(layer, nn.Conv2d) and any(layer.padding)):
            layer.padding_mode = "replicate"
