"""Pickles that cannot be imported, recognised by their keys, and why."""

from __future__ import annotations

from .content import Content

KNOWN = "OSEDiff, PiSA-SR, HYPIR, OMGSR-S or DFOSD"


def reason(content: Content) -> str:
    """The end of a sentence that begins with the file's name."""
    keys = set(content.values)
    if {"state_embeddings", "w"} <= keys:
        return (
            "is S3Diff's: its LoRA changes with every picture, by a network that judges the degradation, so it cannot "
            f"be one fixed change of the weights. Give a LoRA of {KNOWN}."
        )
    if keys == {"vae", "unet"}:
        return (
            "holds a whole UNet and VAE, with OSEDiff's LoRA already merged (AdcSR publishes such an `osediff.pkl`). "
            "Give OSEDiff's own osediff.pkl."
        )
    if any(key.startswith("module.body.") for key in keys):
        return f"is AdcSR's: a network of its own, no LoRA. Give a LoRA of {KNOWN}."
    first = "".join(c if c.isprintable() else "?" for c in min(keys, default="none"))[:80]
    return f"is no LoRA that DFOSD knows: expected one of {KNOWN}, found {len(keys)} entries, first {first}."
