"""pyiqa's metrics, where pyiqa and a metric's weights are at hand. Nothing is downloaded unless asked for.

pyiqa (Chen and Mo, IQA-PyTorch) is what the field measures with; its metrics are never written again here.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from dfosd_core.errors import ConfigError

from .metrics import METRICS, Scores

SET_METRIC = "FID"
"""Compares two sets of images, not two images."""


class Library:
    """The metrics that could be made, each ready on one device."""

    def __init__(self, metrics: Mapping[str, Any], version: str, device: torch.device) -> None:
        self.metrics, self.version, self.device = dict(metrics), version, device

    @classmethod
    def open(
        cls, wanted: Sequence[str], device: torch.device, *, may_download: bool, say: Callable[[str], None]
    ) -> Library:
        """Make the wanted metrics; `say` gets one line for each reason why some are left out."""
        if not may_download:
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            pyiqa = importlib.import_module("pyiqa")
        except ImportError as error:
            reason = "pyiqa is not installed" if error.name == "pyiqa" else f"pyiqa cannot be imported ({error})"
            say(f"Left out: {', '.join(wanted)}. {reason}; `pip install pyiqa` brings them.")
            return cls({}, "", device)
        metrics: dict[str, Any] = {}
        missing: list[str] = []
        for name in wanted:
            try:
                metrics[name] = _make(pyiqa, name, device, may_download)
            except _WeightsMissingError:
                missing.append(name)
            except Exception as error:  # whatever its many networks and their libraries raise
                say(f"Left out: {name}. pyiqa cannot make it: {_one_line(error)}.")
        if missing:
            say(f"Left out: {', '.join(missing)}. Their weights are not on this machine; --download fetches them.")
        return cls(metrics, str(getattr(pyiqa, "__version__", "unknown")), device)

    def score(self, image: Tensor, reference: Tensor | None, name: str) -> Scores:
        """All metrics of an image but FID, both images (1, 3, H, W) in [0, 1]. `name` is for error messages."""
        scores: Scores = {}
        for metric, compute in self.metrics.items():
            if metric == SET_METRIC or (METRICS[metric].needs_reference and reference is None):
                continue
            pair = (image, reference) if METRICS[metric].needs_reference else (image,)
            try:
                scores[metric] = float(compute(*(each.to(self.device) for each in pair if each is not None)).item())
            except Exception as error:
                raise ConfigError(f"pyiqa's {metric} fails on '{name}': {_one_line(error)}.") from error
        return scores

    def fid(self, images: Sequence[Path], references: Sequence[Path]) -> float:
        """FID of two sets of files, however else their folders are filled."""
        with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(sys.stderr):
            folders: list[str] = []
            for side, files in (("images", images), ("references", references)):
                folder = Path(root, side)
                folder.mkdir()
                for file in files:
                    _put(file, folder / file.name)
                folders.append(str(folder))
            try:
                return float(self.metrics[SET_METRIC](*folders, num_workers=0, verbose=False))
            except Exception as error:
                raise ConfigError(f"pyiqa's FID fails: {_one_line(error)}.") from error


def _put(file: Path, place: Path) -> None:
    try:
        place.symlink_to(file.resolve())
    except OSError:  # Windows lets administrators only
        shutil.copyfile(file, place)


class _WeightsMissingError(Exception):
    """pyiqa reached for the network."""


def _make(pyiqa: Any, name: str, device: torch.device, may_download: bool) -> Any:
    attempts: list[object] = []
    guard = contextlib.nullcontext() if may_download else _without_network(attempts)
    progress = sys.stderr if may_download else io.StringIO()  # pyiqa announces downloads before it tries them
    try:
        with guard, contextlib.redirect_stdout(progress):
            return pyiqa.create_metric(METRICS[name].pyiqa, device=device)
    except Exception as error:
        if attempts or _is_offline(error):
            raise _WeightsMissingError from error
        raise


@contextlib.contextmanager
def _without_network(attempts: list[object]) -> Iterator[None]:
    """Whatever pyiqa's parts download with, it ends in a socket."""

    def refuse(*where: object, **_: object) -> NoReturn:
        attempts.append(where)
        raise OSError("no downloads unless asked for")

    kept = socket.socket.connect, socket.getaddrinfo
    socket.socket.connect, socket.getaddrinfo = refuse, refuse
    try:
        yield
    finally:
        socket.socket.connect, socket.getaddrinfo = kept


def _is_offline(error: BaseException | None) -> bool:
    """huggingface_hub in its offline mode does not even try."""
    while error is not None:
        if type(error).__name__ in ("LocalEntryNotFoundError", "OfflineModeIsEnabled"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0].rstrip('.: ')}" if text else type(error).__name__
