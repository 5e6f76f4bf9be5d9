"""The house stays as docs/architecture.md draws it: who may import whom, and one home for each behaviour."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "dfosd_core"

# The rooms from the ground up: a file `x.py` in the root of dfosd_core, or a folder. A room may import from rooms above
# it in this list and from no other, in whatever line the import stands, so there are no circles either.
ROOMS = (
    # the method
    "errors.py",
    "schedule.py",
    "one_step.py",
    "sizes.py",
    "images.py",
    "freed_memory.py",
    "tiles",
    "settings.py",
    "color_fix.py",
    "files.py",
    "torch_files",
    "tensor_files.py",
    "safetensors_io.py",
    "lora",
    "host.py",
    "attach.py",
    "pipeline.py",
    # rooms that do one thing
    "allocator.py",
    "networks",
    "hosts",
    "hosts/comfy",
    "hosts/webui",
    "memory.py",
    "image_files",
    "mosaic.py",
    "upscale_file.py",
    "models.py",
    "exchange",
    "training",
    # faces
    "app",
    "cli",
    "nodes/comfy",
    "nodes/webui",
    "scripts",
    "train_tools/settings",
    "train_tools/data",
    "train_tools/scoring",
    "train_tools/loop",
    "train_tools/ablations",
    "train_tools",
    "benchmarks",
    "benchmarks/gpu",
)
FACES = ROOMS.index("app")
ALLOWED = {"torch", "numpy", "safetensors", "einops"}
"""What the method and the rooms that run inside a host may import."""
HOSTS = {"comfy", "comfy_extras", "folder_paths", "modules", "backend", "gradio", "ldm_patched"}
OWN_LIBRARIES = {
    "hosts/comfy": HOSTS,
    "hosts/webui": HOSTS,
    "image_files": {"PIL", "cv2", "pillow_heif"},
    "mosaic.py": {"PIL"},
    "training": {"diffusers", "PIL", "peft"},
}
TOO_NEW = {"tomllib", "typing.Self", "typing.override", "enum.StrEnum", "datetime.UTC"}  # after Python 3.10
PACKAGES = ("dfosd_core", "nodes", "scripts", "train_tools", "benchmarks")
SOURCES = [path for folder in PACKAGES for path in sorted((ROOT / folder).rglob("*.py"))]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(module: str) -> str:
    """`dfosd_core.tiles.grid` -> `tiles`, `dfosd_core.errors` -> `errors.py`, `train_tools.train` -> `train_tools`."""
    package, *rest = module.split(".")
    if package != "dfosd_core":
        inner = rest[:1] if rest and (ROOT / package / rest[0]).is_dir() else []
        return "/".join([package, *inner])
    if not rest:
        return "dfosd_core"
    if not (CORE / rest[0]).is_dir():
        return f"{rest[0]}.py"
    both = f"{rest[0]}/{rest[1]}" if len(rest) > 1 else ""
    return both if both in ROOMS else rest[0]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def own_imports(path: Path) -> set[str]:
    """Modules of this repository that `path` imports, also late or for types only."""
    found: set[str] = set()
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts).split(".")
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = [*(package[: -node.level] if node.level else []), *(node.module or "").split(".")]
        base = [part for part in base if part]
        if base[0] in PACKAGES:
            for alias in node.names:
                is_module = (ROOT / Path(*base, alias.name)).is_dir() or (
                    ROOT / Path(*base, f"{alias.name}.py")
                ).exists()
                found.add(".".join([*base, alias.name] if is_module else base))
    return found


def foreign_imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_file_has_a_room() -> None:
    nameless = {"dfosd_core", "nodes"}  # their __init__ only
    assert {room_of(module_of(path)) for path in SOURCES} - nameless == set(ROOMS)


def test_no_room_imports_upwards() -> None:
    arrows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in SOURCES:
        here = room_of(module_of(path))
        for module in own_imports(path):
            there = room_of(module)
            if here != there and here in ROOMS and ROOMS.index(there) > ROOMS.index(here):
                arrows[here, there].append(f"{name(path)} -> {module}")
    assert not arrows


def test_nothing_below_the_faces_imports_more_than_its_few_libraries() -> None:
    wrong: list[str] = []
    for path in SOURCES:
        room = room_of(module_of(path))
        if room in ROOMS[:FACES]:
            packages = {module.split(".")[0] for module in foreign_imports(path)}
            extra = packages - ALLOWED - sys.stdlib_module_names - OWN_LIBRARIES.get(room, set())
            wrong += [f"{name(path)}: {package}" for package in sorted(extra)]
    assert not wrong


def test_package_imports_itself_relatively() -> None:
    """ComfyUI loads the pack by its path, so `dfosd_core` is no importable name there."""
    inside = [path for path in SOURCES if path.parts[len(ROOT.parts)] in ("dfosd_core", "nodes")]
    wrong = {
        name(path): found
        for path in inside
        if (found := {m for m in foreign_imports(path) if m.split(".")[0] in PACKAGES})
    }
    assert not wrong


def test_nothing_newer_than_python_310_is_imported() -> None:
    for path in SOURCES:
        imports = foreign_imports(path)
        assert not {module for module in imports if module in TOO_NEW or module.split(".")[0] in TOO_NEW}, name(path)


# Code by which a behaviour is recognised, and the few files that may hold it.
HOMES = [
    ("the noise schedule", r"alphas_cumprod|0\.00085", {"dfosd_core/schedule.py"}),
    (
        "the root of 1 - alpha_bar",
        r"\(1(\.0)? - \w*alpha\w*(\[t\])?\)( \*\* 0\.5|\.sqrt)|sqrt\(1(\.0)? - ",
        {"dfosd_core/schedule.py", "dfosd_core/one_step.py"},
    ),
    ("image ranges", r"\* 2(\.0)? - 1(\.0)?\b|(/ 2(\.0)?|\* 0\.5) \+ 0\.5", {"dfosd_core/images.py"}),
    ("image layout", r"permute\(0, (3, 1, 2|2, 3, 1)\)", {"dfosd_core/images.py"}),
    ("antialiased resizing", r"antialias=True", {"dfosd_core/images.py"}),
    ("LoRA names", r"['\"]lora_unet_?['\"]|replace\(['\"](down|up)_blocks", {"dfosd_core/lora/names.py"}),
    ("memory errors", r"allocate memory", {"dfosd_core/tiles/run.py"}),
    (
        "a file upscaled",
        r"check_target\(|write_image\(",
        {"dfosd_core/upscale_file.py", "dfosd_core/image_files/write.py"},
    ),
    ("words for phases", r"['\"]decode['\"]: ['\"]", {"dfosd_core/upscale_file.py"}),
    ("endings of image files", r"['\"]\.(jpe?g|webp|bmp)['\"]", {"dfosd_core/image_files/__init__.py"}),
    ("Pillow's modes", r"['\"](I;16|CMYK|PA)['\"]|profileToProfile", {"dfosd_core/image_files/pil.py"}),
    ("settings from loose values", r"(UpscaleSettings|\bcls)\(\*\*\{name: value", {"dfosd_core/settings.py"}),
    ("names in checkpoint files", r"['\"](model\.diffusion_model|first_stage_model)\.", {"dfosd_core/tensor_files.py"}),
    (
        "reading tensor files",
        r"int\.from_bytes\(.*little|safetensors\.torch\.load|mmap=",
        {"dfosd_core/tensor_files.py"},
    ),
    ("writing safetensors", r"to_bytes\(.*little", {"dfosd_core/safetensors_io.py"}),
    ("a LoRA at the user's strength", r"\.lora\((\*|.*settings\.strength)", {"dfosd_core/attach.py"}),
    ("reading pickles", r"pickletools|mmap\.mmap", {f"dfosd_core/torch_files/{n}.py" for n in ("archive", "machine")}),
    ("names of the embedded model", r"['\"]embedded small \w+", {"dfosd_core/networks/embedded.py"}),
    ("the equation's rules", r"['\"]residual['\"]", {"dfosd_core/one_step.py"}),
    ("tiling and blending", r"def (tiled_|blend_)\w+|enable_tiling", {"dfosd_core/tiles/grid.py"}),
    ("eps from v", r"eps_from_v\(", {"dfosd_core/schedule.py", "dfosd_core/hosts/layout_host.py"}),
    ("the VAE's fall to float32", r"isfinite\(x\)", {"dfosd_core/hosts/webui/shared.py"}),
    (
        "which WebUI this is",
        r"'forge_model_reload'|scripts_manager|'ldm_patched[.\w]+' in",
        {f"dfosd_core/hosts/webui/{program}.py" for program in ("forge", "reforge", "sdnext")},
    ),
]


@pytest.mark.parametrize(("behaviour", "pattern", "homes"), HOMES, ids=[home[0] for home in HOMES])
def test_each_behaviour_has_one_home(behaviour: str, pattern: str, homes: set[str]) -> None:
    found = {name(path) for path in SOURCES if re.search(pattern, code_of(path))}
    assert found == homes, f"{behaviour} belongs into {', '.join(sorted(homes))}"


@cache
def code_of(path: Path) -> str:
    """The source without comments, and without strings that are statements (docstrings)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            vars(node)["body"] = [s for s in body if not _is_text(s)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_text(statement: ast.AST) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


HOLDING_STATE = {"App", "Found", "Panel", "Plan", "Run", "Scratch", "SideData", "Ticker"}
"""The dataclasses that change; whoever is handed one of the others can keep it."""


def dataclasses_of_the_core() -> Iterator[tuple[ast.ClassDef, dict[str, bool]]]:
    """Each with the switches of its decorator."""
    for path in sorted(CORE.rglob("*.py")):
        for node in ast.walk(tree_of(path)):
            for mark in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                call = mark if isinstance(mark, ast.Call) else ast.Call(func=mark, args=[], keywords=[])
                if isinstance(node, ast.ClassDef) and ast.unparse(call.func).endswith("dataclass"):
                    yield node, {each.arg or "": ast.literal_eval(each.value) for each in call.keywords}


def test_dataclasses_are_frozen_but_for_those_that_hold_state() -> None:
    frozen = {node.name: switches.get("frozen", False) for node, switches in dataclasses_of_the_core()}
    assert len(frozen) > 50
    assert {name for name, is_frozen in frozen.items() if not is_frozen} == HOLDING_STATE


def test_private_fields_are_no_arguments() -> None:
    for node, _ in dataclasses_of_the_core():
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and ast.unparse(line.target).startswith("_") and line.value:
                assert "init=False" in ast.unparse(line.value), f"{node.name}.{ast.unparse(line.target)}"
