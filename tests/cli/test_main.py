from __future__ import annotations

import errno
import importlib.metadata
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import random_lora, tiny_host, write_folder

from dfosd_core.cli import arguments as arguments_module
from dfosd_core.cli.main import main
from dfosd_core.lora.file import save_lora
from dfosd_core.settings import UpscaleSettings

ROOT = Path(__file__).parents[2]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["upscale", "--help"], ["upscale"], ["upscale", "x", "--scale", "9"], ["upscale", "x"]],
)
def test_help_and_mistakes_answer_without_torch(arguments: list[str], tmp_path: Path) -> None:
    script = (
        "import sys; from dfosd_core.cli.main import main\n"
        f"try: main({arguments})\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True).returncode == 0


def test_embedded_model_starts_without_what_it_does_not_use(photo: Path) -> None:
    """Each of these would cost time at every start."""
    script = (
        "import sys; from dfosd_core.cli.main import main\n"
        f"code = main(['upscale', {str(photo)!r}, '--device', 'cpu', '--scale', '1'])\n"
        "print(*sorted(sys.modules)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "dfosd_core.pipeline" in loaded
    ours = ("lora.importers", "lora.open", "networks.light_decoder", "hosts.light", "training", "exchange")
    ours += ("app", "mosaic", "cli.info", "cli.processes", "cli.dry_run")
    others = ("diffusers", "transformers", "peft", "accelerate", "gradio", "cv2", "matplotlib", "scipy", "yaml")
    unwanted = {*(f"dfosd_core.{name}" for name in ours), *others, "torch._dynamo", "torch._inductor"}
    assert sorted(loaded & unwanted) == []


def test_reader_that_goes_away_is_no_crash() -> None:
    script = (
        "import sys; from dfosd_core.cli import main\n"
        "main._COMMANDS['info'] = lambda given: [print('line' * 9999, flush=True) for _ in range(99)]\n"
        "sys.exit(main.main(['info', 'x']))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=-1, stderr=-1)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


def test_every_setting_is_a_flag_with_help_limits_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "upscale", "--help")
    text = " ".join(out.split())
    for setting in fields(UpscaleSettings):
        assert "--" + setting.name.replace("_", "-") in text
        assert " ".join(setting.metadata["help"].split()) in text
    assert "(1 to 8, default 4)" in text
    assert "(default wavelet)" in text
    assert "exit codes: 0 all done" in text


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["upscale"], "the following arguments are required: INPUT. See 'dfosd upscale --help'."),
        (["upscale", "x.png", "--scale", "9"], "Expected scale from 1 to 8, found 9.0. See 'dfosd upscale --help'."),
        (["app", "--port", "x"], "argument --port: invalid int value: 'x'. See 'dfosd app --help'."),
        (
            ["upscale", "x.png", "--strenght", "2"],
            "There is no option or argument --strenght 2. Did you mean --strength? See 'dfosd upscale --help'.",
        ),
        (["upscale", "x.png", "--strenght=2"], "Did you mean --strength? See 'dfosd upscale --help'."),
        (["info", "a", "b\x1b[2J"], "There is no option or argument b?[2J. See 'dfosd info --help'."),
    ],
)
def test_a_wrong_option_is_one_line_that_says_where_help_is(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("dfosd: ")
    assert err.endswith(f"{line}\n")


def test_missing_package_is_one_line(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after `pip install dfosd`, without the extra."""
    for module in [name for name in sys.modules if name.startswith("dfosd_core.cli.") and "main" not in name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    code, _, err = call(capsys, "upscale", str(photo))
    assert code == 1
    assert err == (
        "dfosd: The package 'tqdm' is not installed. Install what the command needs: pip install 'dfosd[app]'.\n"
    )


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert stated is not None
    assert call(capsys, "--version") == (0, f"dfosd {stated[1]}\n", "")


def test_version_of_an_installed_package_is_what_it_was_installed_as(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments_module, "__file__", "/nowhere/dfosd_core/cli/arguments.py")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"that of {name}")
    assert arguments_module.version() == "that of dfosd"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["photo.png"], "invalid choice: 'photo.png'"),
        (["upscale"], "the following arguments are required: INPUT"),
        (["upscale", "a", "--scal", "2"], "There is no option or argument --scal"),
        (["upscale", "a", "--scale", "two"], "argument --scale: invalid float value: 'two'"),
        (["upscale", "a", "--scale", "9"], "Expected scale from 1 to 8, found 9"),
        (["upscale", "a", "--scale", "nan"], "Expected scale from 1 to 8, found nan"),
        (["upscale", "a", "--color-fix", "red"], "argument --color-fix: invalid choice: 'red'"),
        (["upscale", "a", "--unet-tile", "1.5"], "argument --unet-tile: invalid int value: '1.5'"),
        (["upscale", "a", "--long-edge", "9", "--short-edge", "9"], "Give only one of them."),
        (
            ["upscale", "a", "--base", "b"],
            "Expected a DFOSD LoRA trained on the base 'b', found none: the embedded LoRA fits the embedded base only. "
            "Give --lora, or choose that base's LoRA; train_tools trains one.",
        ),
        (["info"], "give either a FILE or --architecture, not both and not neither."),
        (["info", "a", "--architecture", "sd21"], "give either a FILE or --architecture"),
    ],
)
def test_wrong_arguments_end_with_two(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_info_tells_a_lora(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = save_lora(tmp_path / "a.safetensors", random_lora(tiny_host()))
    code, out, _ = call(capsys, "info", str(path))
    assert code == 0
    lines = dict(line.strip().split("  ", 1) for line in out.splitlines()[1:])
    assert out.splitlines()[0] == f"{path}: DFOSD LoRA"
    assert lines["timestep"].strip() == "399"
    assert lines["rank, alpha"].strip() == "4, 8"
    assert lines["prompt"].strip() == "7 tokens of 24"


def test_info_tells_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    host = tiny_host()
    folder = write_folder(tmp_path / "base", host, {"prediction_type": "v_prediction"})
    code, out, _ = call(capsys, "info", str(folder))
    assert code == 0
    assert out.splitlines()[0] == f"{folder}: base model"
    assert "another model (context 24, v-prediction)" in out
    assert f"{sum(p.numel() for p in host.unet.parameters()):,}" in out


def test_info_names_what_is_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    assert call(capsys, "info", str(path)) == (1, "", f"dfosd: There is no file or folder '{path}'.\n")
    path.write_text("no model")
    code, _, err = call(capsys, "info", str(path))
    assert code == 1
    assert err.startswith("dfosd: 'a.safetensors' is damaged or no model file: expected tensors, found: ")
    assert err.count("\n") == 1


def test_info_counts_the_papers_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "info", "--architecture", "sd21")
    assert code == 0
    for figure in ("278", "16,944,128", "949,564,587", "966.344 M", "2,132.27 G", "2,120.47 G", "1,906.33 G"):
        assert figure in out
    stages = dict(re.findall(r"^ +(VAE encoder|UNet|VAE decoder) +([\d,.]+) G$", out, re.MULTILINE))
    assert stages == {"VAE encoder": "541.15", "UNet": "339.24", "VAE decoder": "1,240.08"}


def test_model_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.safetensors"
    code, _, err = call(capsys, "upscale", str(photo), "--base", str(tmp_path), "--lora", str(missing))
    assert code == 1
    assert err == f"dfosd: There is no LoRA file '{missing}'. Give the path of a .safetensors file.\n"


def test_compiled_operations_that_are_kept_are_bounded_unless_the_user_says_otherwise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    for name in names:
        monkeypatch.setenv(name, "9")
    monkeypatch.delenv(names[1])
    call(capsys, "--help")
    assert [os.environ[name] for name in names] == ["9", "128"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_lora_that_fails_while_it_is_read_is_one_line(
    number: int, capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora, opened = save_lora(tmp_path / "x.safetensors", random_lora(tiny_host())), Path.open

    def fail(path: Path, *more: Any, **options: Any) -> Any:
        if path.name == lora.name:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *more, **options)

    monkeypatch.setattr(Path, "open", fail)
    for command in (["info"], ["upscale", str(photo), "--device", "cpu", "--lora"]):
        code, out, err = call(capsys, *command, str(lora))
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert f"'{lora.name}'" in err
        assert os.strerror(number).lower() in err.lower()


def test_lora_for_another_base_is_refused(
    capsys: pytest.CaptureFixture[str], photo: Path, model: list[str], tmp_path: Path
) -> None:
    other = save_lora(tmp_path / "other.safetensors", random_lora(tiny_host(cross_attention_dim=32)))
    code, out, err = call(capsys, "upscale", str(photo), *model, "--lora", str(other))
    assert (code, out) == (1, "")
    assert "context_dim 32 != 24" in err
    assert err.count("\n") == 1


def test_unusable_device_is_named(capsys: pytest.CaptureFixture[str], photo: Path, model: list[str]) -> None:
    code, _, err = call(capsys, "upscale", str(photo), *model, "--device", "abacus")
    assert code == 2
    assert "--device abacus cannot be used: " in err
    assert " Leave --device out or name another. See" in err


def test_half_precision_runs_on_a_cpu(capsys: pytest.CaptureFixture[str], photo: Path, model: list[str]) -> None:
    assert call(capsys, "upscale", str(photo), *model, "--dtype", "bfloat16", "--scale", "2")[0] == 0
