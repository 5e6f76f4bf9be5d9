"""Which networks a run in a WebUI takes: a base from a file; the embedded model where the loaded checkpoint is another.

Files the host must have: see test_webui_hosts.py. The other checkpoints are made from its own. Each class has its own
host, and the one from conftest.py, which runs until the module ends, comes last: each takes up to 9 GB of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from other_checkpoints import TOO_LARGE, write_broken_sd21, write_sd15, write_sdxl_head, write_v_prediction
from webui_calls import (
    assert_embedded,
    assert_runs_base,
    lora_of_the_test,
    ok,
    options,
    picture,
    probed,
    state,
    txt2img,
)
from webui_process import WebUI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def models(installed: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with DFOSD's LoRA for SD 2.1-base and nothing else."""
    folder = tmp_path_factory.mktemp("models")
    name = lora_of_the_test()
    for part in ("DFOSD", "Stable-diffusion"):
        (folder / part).mkdir()
    (folder / "DFOSD" / name).symlink_to(installed[1] / "models" / "DFOSD" / name)
    return folder


@pytest.fixture(scope="class")
def bare(installed: tuple[str, Path], models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """The host without a checkpoint."""
    log = tmp_path_factory.mktemp("bare") / "host.log"
    with WebUI(*installed, log, ["--models-dir", str(models)]) as host:
        yield host


class TestWithoutCheckpoint:
    def test_without_any_checkpoint(self, bare: WebUI) -> None:
        before = state(bare)
        assert before["checkpoints"] == []
        embedded_answers(bare)
        refused(bare, "The WebUI has no checkpoint")
        now = state(bare)
        assert (now["checkpoint"], now["chosen"], now["model"]) == (None, before["chosen"], before["model"])

    def test_base_in_our_folder_is_found_behind_a_broken_one(
        self, bare: WebUI, installed: tuple[str, Path], models: Path
    ) -> None:
        """By the automatic choice, without a checkpoint."""
        broken, whole = (models / "DFOSD" / name for name in ("a.safetensors", "b.safetensors"))
        try:
            write_broken_sd21(broken)
            whole.symlink_to(next((installed[1] / "models" / "Stable-diffusion").glob("*.safetensors")).resolve())
            answer, _ = probed(bare, {})
            assert (answer["host"], answer["base"]) == ("OwnHost", whole.name)
            whole.unlink()
            embedded_answers(bare)
        finally:
            for file in (broken, whole):
                file.unlink(missing_ok=True)


@pytest.fixture(scope="class")
def with_others(installed: tuple[str, Path], models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """The host with checkpoints that are no SD 2.1-base, as far as it reads them without a network."""
    folder, (variable, root) = models / "Stable-diffusion", installed
    own = next((root / "models" / "Stable-diffusion").glob("*.safetensors"))
    write_v_prediction(root, own, folder / "v.safetensors")
    if variable == "FORGE_PATH":
        write_sd15(own, folder / "sd15.safetensors")
        write_sdxl_head(folder / "sdxl.safetensors")
    log = tmp_path_factory.mktemp("others") / "host.log"
    with WebUI(variable, root, log, ["--models-dir", str(models), "--ckpt", str(folder / "v.safetensors")]) as host:
        yield host
    for file in folder.iterdir():
        file.unlink()


class TestWithAnotherCheckpoint:
    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("v", "prediction_type epsilon != v_prediction"),
            ("sd15", "the chosen checkpoint 'sd15.safetensors' has 768"),
            ("sdxl", "the chosen checkpoint 'sdxl.safetensors' has another layout"),
        ],
    )
    def test_with_another_checkpoint(self, with_others: WebUI, name: str, words: str) -> None:
        """The user's stays chosen and loaded, and makes the same images."""
        file = f"{name}.safetensors"
        if file not in state(with_others)["checkpoints"]:
            pytest.skip(f"{with_others.name} wants the network for the text encoder of {name}.")
        ok(with_others.post("/sdapi/v1/options", {"sd_model_checkpoint": file}))
        can_run = name != TOO_LARGE
        picture_before = txt2img(with_others) if can_run else None
        before, log = state(with_others), len(with_others.text())
        if can_run:
            assert before["checkpoint"] == name
        embedded_answers(with_others)
        refused(with_others, words)
        now = state(with_others)
        assert {key: now[key] for key in ("checkpoint", "chosen", "model")} == {
            key: before[key] for key in ("checkpoint", "chosen", "model")
        }
        assert "Loading Model" not in with_others.text()[log:]
        if can_run:
            assert txt2img(with_others) == picture_before


def test_base_from_a_file(webui: WebUI) -> None:
    name = lora_of_the_test()
    base = next((webui.root / "models" / "Stable-diffusion").glob("*.safetensors"))
    choice = {"lora": name, "base": base.name}
    before, loaded = txt2img(webui), state(webui)
    output = assert_runs_base(webui, choice, base)
    now = state(webui)
    assert (sorted(now["kept"]), now["own_hosts"]) == (["base", "lora"], 1)
    with options(webui, dfosd_keep_models=False):
        _, again = probed(webui, choice)
        now = state(webui)
        assert (now["kept"], now["own_hosts"]) == ([], 0)
    assert torch.equal(output, again)
    assert {key: now[key] for key in ("checkpoint", "chosen", "model")} == {
        key: loaded[key] for key in ("checkpoint", "chosen", "model")
    }
    assert txt2img(webui) == before


def embedded_answers(webui: WebUI) -> None:
    """To the automatic choice."""
    answer, output = probed(webui, {})
    assert (answer["host"], answer["base"]) == ("OwnHost", "embedded small base")
    assert_embedded(output)


def refused(webui: WebUI, words: str) -> None:
    """The LoRA by its name, with nothing that fits it, is a clear error."""
    body: dict[str, Any] = {"image": picture(8, 8), "lora": lora_of_the_test()}
    status, content = webui.post("/dfosd/v1/upscale", body)
    assert status == 422
    assert words in content
