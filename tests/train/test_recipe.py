"""What a configuration becomes: networks, terms by step, learning rates, one iteration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch.utils.checkpoint
from safetensors.torch import save_file
from support.small_networks import CONTEXT_DIM, snapshot
from support.training_runs import config, train, trainer

from dfosd_core.errors import ConfigError
from dfosd_core.lora.file import load_lora, save_lora
from train_tools.data.crops import MicroBatch
from train_tools.loop.ema import Ema
from train_tools.loop.learner import lr_factor
from train_tools.loop.networks import initial_prompt
from train_tools.loop.trainer import Trainer
from train_tools.settings.config import Schedule


@pytest.fixture(scope="module")
def trained(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of two steps."""
    out = tmp_path_factory.mktemp("trained") / "out"
    train(config(material, out, optim={"steps": 2}, discriminator={"kind": "none"}))
    return out / "last.safetensors"


def first_batch(run: Trainer) -> list[MicroBatch]:
    return next(run.batches())


def test_one_iteration_moves_both_networks_and_nothing_frozen(material: Path, tmp_path: Path) -> None:
    run = trainer(config(material, tmp_path / "out"))
    generator, discriminator = run.networks.generator, run.networks.discriminator
    assert discriminator is not None
    frozen = [snapshot(network, trainable=False) for network in (generator, discriminator, run.networks.base.vae)]
    before = [snapshot(network, trainable=True) for network in (generator, discriminator)]
    report = run.recipe.train_step(0, first_batch(run))
    for network, kept in zip((generator, discriminator, run.networks.base.vae), frozen, strict=True):
        now = dict(network.named_parameters())
        assert kept
        assert all(torch.equal(value, now[name]) for name, value in kept.items())
    for network, start in zip((generator, discriminator), before, strict=True):
        now = dict(network.named_parameters())
        ups = [name for name in start if name.endswith("up.weight")]
        assert ups
        assert all(not torch.equal(start[name], now[name]) for name in ups)
    assert {"loss/mse", "loss/adversarial", "loss/discriminator", "grad/generator", "grad/discriminator"} <= set(report)
    assert all(parameter.grad is None for network in (generator, discriminator) for parameter in network.parameters())


def test_terms_join_at_their_steps(material: Path, tmp_path: Path) -> None:
    run = trainer(config(material, tmp_path / "out", discriminator={"from_step": 5, "warmup_steps": 2}))
    terms = [run.recipe.active_terms(step) for step in range(8)]
    assert [active.discriminator for active in terms] == [False] * 3 + [True] * 5
    assert [active.adversarial for active in terms] == [False] * 5 + [True] * 3
    report = run.recipe.train_step(0, first_batch(run))
    assert set(report) == {"loss/generator", "loss/mse", "grad/generator"}
    assert "loss/discriminator" in run.recipe.train_step(3, first_batch(run))


@pytest.mark.parametrize("term", ["cycle", "direction"])
def test_terms_of_ours_are_in_the_loss_where_they_have_a_weight(material: Path, tmp_path: Path, term: str) -> None:
    reports = []
    for name, weight in (("without", 0.0), ("with", 0.5)):
        changes = {"loss": {f"lambda_{term}": weight}, "discriminator": {"kind": "none"}, "data": {"crop": 32}}
        run = trainer(config(material, tmp_path / name, **changes))
        reports.append(run.recipe.train_step(0, first_batch(run)))
    without, with_it = reports
    assert f"loss/{term}" not in without
    assert with_it[f"loss/{term}"] > 0
    torch.testing.assert_close(with_it["loss/generator"], with_it["loss/mse"] + 0.5 * with_it[f"loss/{term}"])
    assert with_it["grad/generator"] != without["grad/generator"]


@pytest.mark.parametrize(
    "changes", [{"discriminator": {"kind": "none"}}, {"loss": {"lambda_1": 0.0}}], ids=["none", "lambda_1"]
)
def test_discriminator_can_be_left_out(material: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    run = trainer(config(material, tmp_path / "out", **changes))
    assert run.networks.discriminator is None
    assert list(run.recipe.learners()) == ["generator"]
    assert "loss/adversarial" not in run.recipe.train_step(0, first_batch(run))


def test_generator_starts_equal_beside_every_discriminator(material: Path, tmp_path: Path) -> None:
    starts = [
        snapshot(trainer(config(material, tmp_path, discriminator={"kind": kind})).networks.generator, trainable=True)
        for kind in ("none", "nad", "pixel")
    ]
    for other in starts[1:]:
        assert all(torch.equal(value, other[name]) for name, value in starts[0].items())


def test_pixel_discriminator_sees_images(material: Path, tmp_path: Path) -> None:
    run = trainer(config(material, tmp_path / "out", discriminator={"kind": "pixel"}, data={"crop": 32}))
    batch = first_batch(run)[0]
    _, left = run.recipe.forward_generator(batch, run.recipe.active_terms(0))
    assert left.fake.shape == batch.x_hr.shape
    assert run.networks.discriminator is not None
    before = snapshot(run.networks.discriminator, trainable=True)
    report = run.recipe.train_step(0, [batch])
    now = dict(run.networks.discriminator.named_parameters())
    assert any(not torch.equal(value, now[name]) for name, value in before.items())
    assert report["loss/adversarial"] > 0


def test_gradients_are_clipped_for_each_network(material: Path, tmp_path: Path) -> None:
    moved = []
    for clip in (0.0, 1e-12):
        run = trainer(config(material, tmp_path / "out", optim={"clip": clip, "weight_decay": 0.0}))
        before = snapshot(run.networks.generator, trainable=True)
        assert run.recipe.train_step(0, first_batch(run))["grad/generator"] > 1e-6, "the norm before clipping"
        now = dict(run.networks.generator.named_parameters())
        moved.append(max(float((now[name].detach() - value).abs().max()) for name, value in before.items()))
    # AdamW's first step is lr * g / (|g| + 1e-8): a gradient clipped far below 1e-8 hardly moves anything.
    assert moved[0] > 5e-4
    assert moved[1] < 1e-5


@pytest.mark.parametrize(
    ("step", "first", "schedule", "expected"),
    [
        (0, 0, "constant", 0.25),
        (3, 0, "constant", 1.0),
        (99, 0, "constant", 1.0),
        (10, 10, "constant", 0.25),
        (4, 0, "cosine", 1.0),
        (52, 0, "cosine", 0.505),
        (100, 0, "cosine", 0.01),
    ],
)
def test_learning_rate_is_a_function_of_the_step(step: int, first: int, schedule: Schedule, expected: float) -> None:
    assert lr_factor(step, first, steps=100, warmup_steps=4, schedule=schedule) == pytest.approx(expected)


def test_ema_follows_its_formula_and_gives_the_parameters_back() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    ema = Ema([parameter], 0.5)
    expected = 0.0
    for step, value in enumerate((1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0)):
        parameter.data.fill_(value)
        ema.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with ema.applied():
        assert parameter.item() == pytest.approx(expected, rel=1e-6)
    assert parameter.item() == 3.0
    again = Ema([parameter], 0.5)
    again.load(ema.state())
    assert torch.equal(again.averages[0], ema.averages[0])
    assert again.updates == 10


def test_init_lora_gives_back_the_exported_lora(material: Path, tmp_path: Path, trained: Path) -> None:
    settings = config(material, tmp_path / "out", model={"init_lora": trained})
    run = trainer(settings)
    start, again = load_lora(trained), run.networks.generator.export_lora(run.lora().metadata, torch.float16)
    assert start.pairs.keys() == again.pairs.keys()
    assert any(pair.up.abs().max() > 0 for pair in start.pairs.values())
    for name, pair in start.pairs.items():
        assert torch.equal(pair.up, again.pairs[name].up)
        assert torch.equal(pair.down, again.pairs[name].down)
    assert torch.equal(start.prompt_embeds, again.prompt_embeds)


def test_init_lora_of_another_base_or_shape_is_refused(material: Path, tmp_path: Path, trained: Path) -> None:
    with pytest.raises(ConfigError, match="was trained for another model .* but the loaded base is"):
        trainer(config(material, tmp_path, model={"base": "embedded", "init_lora": trained}, data={"crop": 32}))
    with pytest.raises(ConfigError, match=r"model\.init_lora: There is no LoRA file"):
        trainer(config(material, tmp_path, model={"init_lora": tmp_path / "none.safetensors"}))
    lora = load_lora(trained)
    name, pair = next(iter(lora.pairs.items()))
    lora.pairs["lora_unet_new"] = lora.pairs.pop(name)  # type: ignore[attr-defined]
    save_lora(tmp_path / "other.safetensors", lora)
    with pytest.raises(ConfigError, match=r"other.safetensors': The LoRA does not fit .* 1 with no such layer"):
        trainer(config(material, tmp_path, model={"init_lora": tmp_path / "other.safetensors"}))
    assert pair.up.shape[1] == lora.metadata.rank


def test_prompt_starts_from_the_file_beside_the_base_else_from_noise(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    noise = initial_prompt(tmp_path, 50, CONTEXT_DIM, rng)
    assert noise.shape == (1, 50, CONTEXT_DIM)
    assert noise.std().item() == pytest.approx(0.02, rel=0.1)
    kept = torch.randn(1, 3, CONTEXT_DIM)
    save_file({"prompt_embeds": kept}, tmp_path / "prompt_embeds.safetensors")
    assert torch.equal(initial_prompt(tmp_path, 50, CONTEXT_DIM, rng), kept)
    with pytest.raises(ConfigError, match=r"is \(1, 3, 16\), expected \(1, N, 99\)"):
        initial_prompt(tmp_path, 50, 99, rng)


def test_text_encoder_without_transformers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("text_encoder", "tokenizer"):
        (tmp_path / part).mkdir()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"has a text encoder.*pip install transformers"):
        initial_prompt(tmp_path, 5, CONTEXT_DIM, torch.Generator())


def test_prompt_starts_from_the_text_encoders_nothing(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "tokenizer").mkdir()
    vocabulary = '{"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}'
    (tmp_path / "tokenizer" / "vocab.json").write_text(vocabulary)
    (tmp_path / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text('{"model_max_length": 7}')
    sizes = {"hidden_size": CONTEXT_DIM, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    facts = transformers.CLIPTextConfig(vocab_size=3, max_position_embeddings=7, eos_token_id=1, **sizes)
    encoder = transformers.CLIPTextModel(facts).eval()
    encoder.save_pretrained(tmp_path / "text_encoder")
    prompt = initial_prompt(tmp_path, 50, CONTEXT_DIM, torch.Generator())
    with torch.no_grad():
        expected = encoder(torch.tensor([[0, 1, 1, 1, 1, 1, 1]])).last_hidden_state
    torch.testing.assert_close(prompt, expected)


def test_crop_that_the_base_cannot_halve_is_refused(material: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.crop: expected a multiple of 8 for this base, found 20"):
        trainer(config(material, tmp_path, model={"base": "embedded"}, data={"crop": 20}))


def test_gradient_checkpointing_reaches_both_networks(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    honest = torch.utils.checkpoint.checkpoint

    def counted(function: Any, *args: Any, **options: Any) -> Any:
        calls.append(type(function).__name__)
        return honest(function, *args, **options)

    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", counted)
    plain, checkpointed = (
        trainer(config(material, tmp_path / "out", run={"gradient_checkpointing": on})) for on in (False, True)
    )
    expected = plain.recipe.train_step(0, first_batch(plain))
    assert calls == []
    actual = checkpointed.recipe.train_step(0, first_batch(checkpointed))
    generator, discriminator = checkpointed.networks.generator, checkpointed.networks.discriminator
    resnets = [
        sum(type(m).__name__ == "ResnetBlock2D" for m in part.modules()) for part in (generator.unet, discriminator)
    ]
    assert min(resnets) > 2
    decoder = cast("Any", checkpointed.networks.base.vae).decoder
    of_decoder = sum(len(block.resnets) for block in decoder.up_blocks)
    # The generator once, the discriminator in both steps; the first resnet of a mid block is not checkpointed.
    assert calls.count("ResnetBlock2D") == (resnets[0] - 1) + 2 * (resnets[1] - 1) + of_decoder
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value)
