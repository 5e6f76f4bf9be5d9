"""Average LoRAs of one training: a run's ends, or runs that started from one another.

    python train_tools/average.py LORA LORA... -o OUT

OUT's tensors, the prompt among them, are the means of theirs ("model soups", arXiv 2203.05482); its metadata are the
first one's. Base, timestep, rank and layers must be the same. LoRAs that were trained apart can pass that check and
still have no useful mean: what is alike in them may lie in different rows.
"""

from __future__ import annotations

if not __package__:
    import run_as_module

    run_as_module.start(__file__)

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.files import what_failed
from dfosd_core.lora.changes import LoraPair
from dfosd_core.lora.file import DfosdLora, load_lora, save_lora

SAME = ("base_layout", "timestep", "rule", "rank", "lora_alpha", "parts")
"""Of the metadata."""


def average(loras: Sequence[DfosdLora]) -> DfosdLora:
    """The mean of each tensor, in the first one's number format. Raises ConfigError where they do not fit."""
    first = loras[0]
    for other in loras[1:]:
        _check_fit(first, other)
    pairs = {
        name: LoraPair(
            down=_mean([lora.pairs[name].down for lora in loras]),
            up=_mean([lora.pairs[name].up for lora in loras]),
            alpha=pair.alpha,
        )
        for name, pair in first.pairs.items()
    }
    return replace(first, pairs=pairs, prompt_embeds=_mean([lora.prompt_embeds for lora in loras]))


def _check_fit(first: DfosdLora, other: DfosdLora) -> None:
    for name in SAME:
        expected, found = getattr(first.metadata, name), getattr(other.metadata, name)
        if expected != found:
            raise ConfigError(f"expected LoRAs of one training, found {name} {expected} and {found}.")
    shapes = [{key: value.shape for key, value in lora.tensors().items()} for lora in (first, other)]
    if shapes[0] != shapes[1] or first.set_weights or first.set_biases:
        raise ConfigError("expected LoRAs of one training, with pairs on the same layers only, found others.")
    alphas = [{name: pair.alpha for name, pair in lora.pairs.items()} for lora in (first, other)]
    if alphas[0] != alphas[1]:
        raise ConfigError("expected LoRAs of one training, found different alphas.")


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.double() for tensor in tensors]).mean(0).to(tensors[0].dtype)


def main() -> int:
    """Parse the command line, average, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loras", nargs="+", type=Path, metavar="LORA")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    args = parser.parse_args()
    try:
        if len(args.loras) < 2:
            raise ConfigError("expected two LoRAs or more, found one.")
        save_lora(args.output, average([load_lora(path) for path in args.loras]))
    except DfosdError as error:
        print(f"average: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"average: {what_failed(error)}", file=sys.stderr)
        return 1
    print(f"{args.output}: the mean of {len(args.loras)} LoRAs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
