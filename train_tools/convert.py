"""`dfosd convert` as a program: any LoRA that DFOSD takes becomes a DFOSD LoRA.

python train_tools/convert.py IN -o OUT [--timestep T --rule RULE]
"""

from __future__ import annotations

if not __package__:
    import run_as_module

    run_as_module.start(__file__)

import sys

from dfosd_core.cli.main import main as dfosd


def main() -> int:
    """Run the command with this program's arguments."""
    return dfosd(["convert", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
