"""Writes the settings' tables and tooltips into all pages that have them, so that nobody types them.

    python -m benchmarks.settings_tables            # after a change of UpscaleSettings or of a training setting
    python -m benchmarks.settings_tables --check    # changes nothing; exit code 1 if a page is not true

`UpscaleSettings` has the names, defaults, limits and help; `train_tools.settings.config` has those of training. A
translated name or tooltip is typed once, in locales/, and goes into the help page from there.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from dataclasses import Field, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from dfosd_core.cli.arguments import make_parser
from dfosd_core.settings import UpscaleSettings
from train_tools.settings.config_file import reference

ROOT = Path(__file__).parents[1]
SETTINGS = {setting.name: setting for setting in fields(UpscaleSettings)}
NODE = "DFOSDUpscale"
_MARK, _END = "<!-- reference -->\n", "<!-- /reference -->\n"


def pages(read: Path = ROOT) -> dict[str, str]:
    """Each file that has settings in it, below the root, and what it should hold; their other text is kept."""
    texts = {name: (read / name).read_text("utf-8") for name in (*_FLAGS, *_NODE_PAGES, *_LOCALES, _TRAINING)}
    flags = [_row(f"`--{name.replace('_', '-')}`", *_facts(setting)) for name, setting in SETTINGS.items()]
    result = {name: with_table(texts[name], "| flag | default | limits | meaning |", flags) for name in _FLAGS}
    result[_OPTIONS] = with_table(result[_OPTIONS], "| option | meaning |", _options())
    locales = {name: json.loads(texts[name]) for name in _LOCALES}
    _set_tooltips(locales["locales/en/nodeDefs.json"])
    result |= {name: json.dumps(tree, indent=2, ensure_ascii=False) + "\n" for name, tree in locales.items()}
    for name, (locale, header) in _NODE_PAGES.items():
        rows = _node_rows(texts[name], header, locales[locale][NODE]["inputs"])
        result[name] = with_table(texts[name], header, rows)
    result[_TRAINING] = texts[_TRAINING].partition(_MARK)[0] + _MARK + reference() + _END
    return result


_FLAGS = ("README.md", "docs/settings.md")
_OPTIONS = "docs/settings.md"
_TRAINING = "docs/training_settings.md"
_LOCALES = ("locales/en/nodeDefs.json", "locales/zh/nodeDefs.json")
_NODE_PAGES = {
    "docs/comfyui.md": (_LOCALES[0], "| input | default | meaning |"),
    f"web/docs/{NODE}.md": (_LOCALES[0], "| input | default | meaning |"),
    f"web/docs/{NODE}/en.md": (_LOCALES[0], "| input | default | meaning |"),
    f"web/docs/{NODE}/zh.md": (_LOCALES[1], "| 输入 | 默认 | 含义 |"),
}


def with_table(text: str, header: str, rows: list[str]) -> str:
    """`text` with these rows below `header` and the line under it. Raises ValueError where there is no such table."""
    found = re.search(rf"^({re.escape(header)}\n\|[-| ]+\|\n)(?:\|.*\n)*", text, re.MULTILINE)
    if not found:
        raise ValueError(f"expected a table that starts with '{header}'.")
    return text[: found.end(1)] + "".join(f"{row}\n" for row in rows) + text[found.end() :]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _facts(setting: Field[Any]) -> tuple[str, str, str]:
    """Default, limits, meaning."""
    limits, meaning = setting.metadata, setting.metadata["help"]
    automatic = " Default: automatic."
    none = "automatic" if automatic in meaning else "-"
    default = none if setting.default is None else f"{setting.default}".removesuffix(".0")
    allowed = ", ".join(limits["choices"]) if "choices" in limits else f"{limits['min']:g} to {limits['max']:g}"
    return default, allowed, meaning.replace(automatic, "")


def _options() -> list[str]:
    """Those of `dfosd upscale` that are no settings, as its --help states them."""
    parser = make_parser().parse_args(["upscale", "x"]).parser
    rows: list[str] = []
    for action in parser._actions:  # argparse has no other list
        names = [name for name in action.option_strings if action.dest not in (*SETTINGS, "help")]
        if names:
            value = f" {action.metavar}" if action.metavar else " " + "\\|".join(action.choices or ())
            shown = ", ".join(f"`{name}{value.rstrip()}`" for name in names)
            rows.append(f"| {shown} | {(action.help or '').replace('%%', '%')} |")
    return rows


def _widgets() -> ModuleType:
    """nodes/comfy/inputs.py, of the checkout as a package, as ComfyUI has it; no host is needed for it."""
    package = ModuleType("dfosd_checkout")
    package.__path__ = [str(ROOT)]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.nodes.comfy.inputs")


def _set_tooltips(tree: dict[str, Any]) -> None:
    inputs = _widgets()
    widgets = inputs.settings_inputs() | inputs.settings_inputs(*inputs.LATER)
    for name, (_, options) in widgets.items():
        tree[NODE]["inputs"][name]["tooltip"] = options["tooltip"]
    tree["DFOSDLoadLoRA"]["inputs"]["strength"]["tooltip"] = widgets["strength"][1]["tooltip"]
    tree["DFOSDColorFix"]["inputs"]["method"]["tooltip"] = widgets["color_fix"][1]["tooltip"]


def _node_rows(text: str, header: str, names: dict[str, dict[str, str]]) -> list[str]:
    """Settings from the locale's names and tooltips; the other inputs' rows as they are, all in the node's order."""
    not_given = _widgets().NOT_GIVEN
    table = text[text.index(header) :].partition("\n\n")[0].splitlines()[2:]
    typed = {row.split(" | ")[0].removeprefix("| "): row for row in table}
    rows: list[str] = []
    for name, shown in names.items():
        if name in SETTINGS:
            default = f"{not_given.get(name, SETTINGS[name].default)}".removesuffix(".0")
            rows.append(_row(shown["name"], default, shown["tooltip"]))
        else:  # "model, VAE" stands where the first of them does
            rows += [row for cell, row in typed.items() if re.split(", |、", cell)[0] == shown["name"]]
    return rows


def main() -> int:
    """Write what is not true, or name it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    untrue = {name: text for name, text in pages().items() if (ROOT / name).read_text("utf-8") != text}
    for name, text in untrue.items():
        print(name)
        if not given.check:
            (ROOT / name).write_text(text, "utf-8")
    return 1 if given.check and untrue else 0


if __name__ == "__main__":
    sys.exit(main())
