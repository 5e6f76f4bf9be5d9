"""Lets every program of this folder be started by its file, from any folder: `python train_tools/train.py ...`.

Python then knows no package for the program's relative imports, and looks for modules beside the file. A program
therefore begins with `if not __package__`, which calls `start`, and starts again as `python -m train_tools.NAME` would
start it. `accelerate launch` and `torchrun` start files in the same way.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import NoReturn


def start(program: str) -> NoReturn:
    """Run the program again as a module of this package. program: its `__file__`."""
    folder = Path(program).resolve().parent
    sys.path[0] = str(folder.parent)  # in place of `folder`, whose `data` and `settings` would hide other people's
    runpy.run_module(f"{folder.name}.{Path(program).stem}", run_name="__main__", alter_sys=True)
    sys.exit(0)
