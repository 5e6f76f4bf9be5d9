"""`dfosd convert` as a program: any LoRA that DFOSD takes becomes a DFOSD LoRA.

python train_tools/convert.py IN -o OUT [--timestep T --rule RULE]
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Run the command with this program's arguments."""
    sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, from any folder
    from dfosd_core.cli.main import main as dfosd

    return dfosd(["convert", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
