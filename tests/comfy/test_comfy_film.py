"""A film through DFOSD Upscale in the real ComfyUI, with the embedded model: nothing else has to be made for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from comfy_graph import EMBEDDED, Graph, picture
from comfy_process import HERE, ROOT, ComfyProcess

EDGE = 256


@pytest.fixture(scope="module")
def graph(comfyui: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    process = ComfyProcess(tmp_path_factory.mktemp("film"), {"comfyui-dfosd": ROOT, "probe_pack": HERE / "probe_pack"})
    yield Graph(process, process.base)
    process.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_film_of_96_frames_takes_the_memory_of_8_and_equal_frames_are_equal(graph: Graph) -> None:
    """Of the process's peak, above what it had before, the film and its result are taken off: what is left is ours."""

    def run(frames: int) -> tuple[int, list[str], list[tuple[int, int]]]:
        before = graph.run({"9": {"class_type": "ProbeTrim", "inputs": {}}}).memory_kib["VmRSS"]
        film = {"class_type": "ProbeFrames", "inputs": {"frames": frames, "edge": EDGE}}
        workflow = graph.upscale(picture(1, 1, 1), lora=EMBEDDED, model=None, vae=None, scale=1.0)
        workflow |= {"2": film, "4": {"class_type": "ProbeHashes", "inputs": {"image": ["3", 0]}}}
        result = graph.run(workflow)
        assert result.status == "success", result.error
        ours = (result.memory_kib["VmHWM"] - before) * 1024 - 2 * frames * EDGE**2 * 3 * 4
        return ours, result.outputs["4"]["sha256"], result.progress

    run(2)
    few, _, _ = run(8)
    many, hashes, progress = run(96)
    logging.getLogger(__name__).warning("8 frames: %.1f MB, 96 frames: %.1f MB", few / 1e6, many / 1e6)
    assert many < 1.1 * few
    assert len(set(hashes[::2])) == 1
    assert len(set(hashes)) == 1 + 48
    assert progress[-1][0] == progress[-1][1] == len(progress)
    assert len(progress) % (96 * 3) == 0


def test_stop_ends_a_film_within_a_frame(graph: Graph) -> None:
    workflow = graph.upscale(picture(12, 16, 16), lora=EMBEDDED, model=None, vae=None, scale=2.0)
    result = graph.run(workflow, interrupt_at=5)  # the second frame's
    assert result.status == "interrupted"
    assert len(result.progress) <= 9
