"""Configurations: the shipped ones load, wrong ones are named in one line, the docs list every setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfosd_core.errors import ConfigError
from train_tools.settings.config import LossConfig, TrainConfig, plain_config
from train_tools.settings.config_file import TYPES, dump_config, load_config, reference
from train_tools.settings.resume_policy import RULES, check_resume

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "train_tools" / "configs").glob("*.yaml"))
SMALL = ROOT / "train_tools" / "configs" / "small_cpu.yaml"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configuration_loads_opens_with_its_command_and_survives_a_round_trip(
    path: Path, tmp_path: Path
) -> None:
    config = load_config(path)
    comments = path.read_text("utf-8").split("\n#\n")[0]
    assert f"train_tools/configs/{path.name}" in comments
    (tmp_path / "again.yaml").write_text(dump_config(config), "utf-8")
    assert load_config(tmp_path / "again.yaml") == config


def test_papers_configuration_is_the_papers() -> None:
    config = load_config(ROOT / "train_tools" / "configs" / "sd21_x4.yaml")
    assert (config.optim.lr, config.discriminator.lr, config.optim.steps) == (5e-5, 5e-5, 100_000)
    assert (config.model.rank, config.model.lora_alpha, config.discriminator.rank) == (16, 16, 16)
    assert (config.data.batch_size, config.data.crop, config.model.timestep) == (8, 512, 399)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.lrr=1", "--set: optim.lrr: no such setting. Did you mean optim.lr?"),
        ("data.crop=big", "--set: data.crop: expected an int, found 'big'."),
        ("loss.perceptual=lpips", "--set: loss.perceptual: expected one of none, dists, ea_dists, found 'lpips'."),
        ("data.crop=130", "data.crop: expected a multiple of 4, at least 16, found 130."),
        ("loss.perceptual=dists", "loss.perceptual is 'dists', which needs loss.vgg"),
        (
            "loss.lambda_direction=0.1 data.crop=16",
            "data.crop: expected at least 32 with loss.lambda_direction, found 16.",
        ),
        ("discriminator.kind=sdxl", "discriminator.base: expected with discriminator.kind sdxl and only there"),
        ("discriminator.from_step=500", "discriminator.from_step (500) is not before the last step (200)"),
        ("rank", "--set: expected SECTION.NAME=VALUE, found 'rank'."),
    ],
)
def test_wrong_setting_is_named_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(SMALL, text.split(" "))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected sections"),
        ("- a", "expected sections"),
        ("optim:\n  steps: 1\n  steps: 2\n", "line 3: expected YAML, but 'steps' is there twice"),
        ("modle: {}\n", "modle: no such section. Did you mean model?"),
    ],
)
def test_wrong_file_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_override_wins_over_the_file() -> None:
    assert load_config(SMALL, ["optim.lr=5e-5", "data.photos=2024"]).optim.lr == 5e-5
    assert load_config(SMALL, ["data.photos=2024"]).data.photos == Path("2024")


def test_every_setting_has_a_rule_for_resuming() -> None:
    assert RULES.keys() == TYPES.keys()


def test_reference_in_the_docs_is_todays() -> None:
    text = (ROOT / "docs" / "training_settings.md").read_text("utf-8")
    assert text.split("<!-- reference -->\n")[1].split("<!-- /reference -->")[0] == reference()


def test_changes_at_resume_are_refused_warned_of_or_allowed() -> None:
    old = TrainConfig(loss=LossConfig(perceptual="none"))
    new, said = TrainConfig(loss=LossConfig(perceptual="none", lambda_1=0.1)), list[str]()
    new.data.workers = 7
    assert check_resume(plain_config(old), new, said.append) is new
    assert said == ["loss.lambda_1 changes from 0.005 to 0.1."]
    new.model.rank = 8
    with pytest.raises(ConfigError, match=r"cannot go on: model.rank was 16 and is now 8. Set it as it was"):
        check_resume(plain_config(old), new, said.append)
