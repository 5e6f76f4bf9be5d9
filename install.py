"""What DFOSD needs, as pyproject.toml says, and which of it is missing.

ComfyUI-Manager runs this file once, WebUIs at every start: it installs nothing and names what is missing.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PYPROJECT = Path(__file__).with_name("pyproject.toml")


def missing_packages(extra: str = "") -> list[str]:
    """Packages that `pip install 'dfosd[extra]'` would add, by name; none is imported to find out."""
    lists = [declared("project", "dependencies")]
    lists += [declared("project.optional-dependencies", name) for name in extras_in(extra)]
    names = dict.fromkeys(re.split(r"[^\w.-]", requirement)[0] for each in lists for requirement in each)
    return [name for name in names if name != "dfosd" and not _is_installed(name)]


def extras_in(extra: str) -> list[str]:
    """`extra` and those it includes as `dfosd[...]`, e.g. train -> [train, app]; none for an empty name."""
    found = [extra] if extra else []
    for name in found:  # grows meanwhile
        own = [text for text in declared("project.optional-dependencies", name) if text.startswith("dfosd[")]
        found += [inner for text in own for inner in re.findall(r"\w+", text)[1:] if inner not in found]
    return found


def declared(table: str, key: str) -> list[str]:
    """An array of strings of pyproject.toml. Read like this because Python 3.10 has no tomllib."""
    array = r'\[(?:[^]"#]|#.*|"[^"\n]*")*\]'
    pattern = rf"^\[{re.escape(table)}\]\n(?:(?!\[).*\n)*?{re.escape(key)} *= *({array})"
    found = re.search(pattern, PYPROJECT.read_text("utf-8"), re.MULTILINE)
    assert found, f"pyproject.toml has no array {table}.{key}"
    return [text for text in re.findall(r'#.*|"([^"\n]*)"', found[1]) if text]


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    missing = missing_packages()
    if missing:
        print(
            f"DFOSD: {', '.join(missing)} missing in {sys.executable}. Install it with: "
            f"{sys.executable} -m pip install {' '.join(missing)}",
            file=sys.stderr,
        )
