"""An engine whose tiles a test can count and hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from dfosd_core.app.runner import Request, Run, Snapshot, UpscaleFile
from dfosd_core.tiles.run import Progress, ProgressCallback

TILES = 4


class HeldEngine:
    """Enlarges with Pillow in `TILES` tiles; each waits until `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()
        self.hold_at: int | None = None
        """Before the tile of this number, over all pictures, `go` is cleared and `held` is set."""
        self.held = threading.Event()
        self.tiles = 0
        self.requests: list[Request] = []
        self.inside = 0
        self.most_inside = 0

    @contextmanager
    def __call__(self, request: Request) -> Iterator[UpscaleFile]:
        self.requests.append(request)
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)

        def upscale_file(source: Path, target: Path, progress: ProgressCallback) -> tuple[int, int]:
            with Image.open(source) as image:
                height, width = request.settings.output_size(image.height, image.width)
                for i in range(TILES):
                    self.begun.set()
                    if self.tiles == self.hold_at:
                        self.go.clear()
                        self.held.set()
                    assert self.go.wait(20)
                    self.tiles += 1
                    progress(Progress(phase="unet", done=i + 1, total=TILES))
                image.resize((width, height)).save(target)
            return height, width

        try:
            yield upscale_file
        finally:
            self.inside -= 1


def end_of(run: Run) -> Snapshot:
    """Its last snapshot."""
    run.join(20)
    assert run.now.is_over
    return run.now
