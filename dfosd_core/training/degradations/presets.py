"""Real-ESRGAN's degradation in two severities, and a camera's."""

from __future__ import annotations

from dataclasses import replace

from .real_esrgan import RealEsrgan, Round

HEAVY = RealEsrgan(
    first=Round(
        blur_probability=1.0,
        blur_sigma=(0.2, 3.0),
        sinc_probability=0.1,
        resize_probabilities=(0.2, 0.7, 0.1),
        resize=(0.15, 1.5),
        gaussian_probability=0.5,
        gaussian_sigma=(1, 30),
        poisson_scale=(0.05, 3.0),
        grey_noise_probability=0.4,
        jpeg_quality=(30, 95),
    ),
    second=Round(
        blur_probability=0.8,
        blur_sigma=(0.2, 1.5),
        sinc_probability=0.1,
        resize_probabilities=(0.3, 0.4, 0.3),
        resize=(0.3, 1.2),
        gaussian_probability=0.5,
        gaussian_sigma=(1, 25),
        poisson_scale=(0.05, 2.5),
        grey_noise_probability=0.4,
        jpeg_quality=(30, 95),
    ),
    final_sinc_probability=0.8,
)
"""Real-ESRGAN x4plus (train_realesrnet_x4plus.yml), as OSEDiff, PiSA-SR and HYPIR have it."""

LIGHT = RealEsrgan(
    first=replace(
        HEAVY.first,
        blur_sigma=(0.2, 1.5),
        resize=(0.5, 1.5),
        gaussian_sigma=(1, 15),
        poisson_scale=(0.05, 2.0),
        jpeg_quality=(60, 95),
    ),
    second=replace(
        HEAVY.second,
        blur_probability=0.5,
        blur_sigma=(0.2, 1.0),
        resize=(0.6, 1.2),
        gaussian_sigma=(1, 12),
        poisson_scale=(0.05, 1.0),
        jpeg_quality=(60, 100),
    ),
    final_sinc_probability=0.5,
)
"""The milder one of S3Diff (arXiv 2409.17058) and AdcSR (arXiv 2411.13383); its resize ranges are ours."""

CAMERA = RealEsrgan(
    first=Round(
        blur_probability=1.0,
        blur_sigma=(2.0, 2.8),
        sinc_probability=0.0,
        resize_probabilities=(0.1, 0.4, 0.5),
        resize=(0.8, 1.1),
        gaussian_probability=0.5,
        gaussian_sigma=(0, 6),
        poisson_scale=(0.0, 0.5),
        poisson_levels=256,
        grey_noise_probability=0.3,
        jpeg_quality=(85, 100),
        kernel_sizes=(21,),
        has_even_betas=True,
    ),
    second=Round(
        blur_probability=0.1,
        blur_sigma=(0.2, 0.8),
        sinc_probability=0.0,
        resize_probabilities=(0.1, 0.2, 0.7),
        resize=(0.9, 1.05),
        gaussian_probability=0.5,
        gaussian_sigma=(0, 3),
        poisson_scale=(0.0, 0.3),
        poisson_levels=256,
        grey_noise_probability=0.3,
        jpeg_quality=(80, 100),
        kernel_sizes=(21,),
        has_even_betas=True,
    ),
    final_sinc_probability=0.0,
    final_sharpening=(0.0, 1.0),
)
"""A camera at a longer distance: its lens blurs, its software sharpens, noise and JPEG are slight. Made for the
embedded default.

On real pairs the Gaussian that fits best before the reduction by 4 has 2.0 pixels (1.6 to 2.4 for four of five); on
what this makes of 28 photographs it has 2.0 (0.9 to 2.4): sharpening makes a blur look smaller. A blur that fits
as well without sharpening was tried first: edges of real photographs came out 14 % too strong, since cameras had
strengthened them already. It was fitted with kernels of 21 taps and even betas, and keeps them. A flat area gets the
noise of any other: it has few grey levels, and where these are counted a sky is noisier than a meadow.
"""
