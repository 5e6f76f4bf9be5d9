#!/usr/bin/env python3
"""Sets DFOSD up beside itself, then runs it: `python3 run.py upscale PHOTO`, `app`, `info ...`, `train ...` or `test`.

Needs Python 3.10 or newer and nothing else. Uses the packages of the Python that runs it if they are all
there; otherwise makes the folder `.venv` once, with the versions of constraints.txt. Delete it to undo that.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
OURS = os.path.join(VENV, "made-by-dfosd")
PYTHON = os.path.join(VENV, "Scripts", "python.exe") if os.name == "nt" else os.path.join(VENV, "bin", "python")
EXTRAS = {"train": "train", "test": "dev"}  # of pyproject.toml; every other command needs `app`
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("pyright", "--pythonpath", "{python}"),
    # One process a core: more than the two that the tests were tried with gain little and cost memory.
    # In the order that tests/conftest.py gives: by number of tests, the longest would come last and run alone.
    ("pytest", "-n", str(min(2, os.cpu_count() or 1)), "--dist", "loadfile", "--no-loadscope-reorder"),
)
USAGE = """usage: python3 run.py upscale INPUT... [options]   make images larger and sharper
       python3 run.py app                         the same in the browser, with before and after
       python3 run.py info FILE                   say what a LoRA or a base model is
       python3 run.py convert | merge | export    LoRA files for DFOSD and other programs; --help for more
       python3 run.py train --config CONFIG       train a LoRA; --help for more
       python3 run.py test [pytest options]       run the checks and tests, or some tests

The first call installs what is needed into .venv here."""


def main(arguments: "list[str]") -> int:
    if sys.version_info < (3, 10):
        return fail("DFOSD needs Python 3.10 or newer, this is " + sys.version.split()[0] + ".")
    if not arguments or arguments[0] in ("-h", "--help"):
        show(USAGE)
        return 0 if arguments else 2
    command = arguments[0]
    try:
        python = ready_python(EXTRAS.get(command, "app"))
    except KeyboardInterrupt:
        return fail("interrupted while installing; the next start begins anew.", 130)
    if python is None:
        return 1
    if command == "test":
        return run_checks(python, arguments[1:])
    program = ["train_tools.train", *arguments[1:]] if command == "train" else ["dfosd_core.cli", *arguments]
    return hand_over([python, "-m", *program])


def ready_python(extra: str) -> "str | None":
    """The Python to use, with everything installed; None after a failure, which has been reported."""
    from install import extras_in, missing_packages  # not above: an old Python could not read it

    if not missing_packages(extra):
        return sys.executable
    stamp = os.path.join(VENV, "installed-" + extra)
    if read(stamp) == fingerprint():
        return PYTHON
    say("Setting up DFOSD in " + VENV + " (once; a few minutes, most of it for PyTorch) ...")
    if not make_venv() or not install(extra):
        return None
    for included in extras_in(extra):
        write(os.path.join(VENV, "installed-" + included), fingerprint())
    say("Set up.")
    return PYTHON


def make_venv() -> bool:
    """An environment that was begun and not finished is made anew; one that is not ours is left alone."""
    if os.path.isdir(VENV) and not os.path.exists(OURS):
        fail(
            "the folder .venv here was not made by this program. Remove it, or install into it and use "
            "its Python: pip install -c constraints.txt -e '.[dev]'"
        )
        return False
    if read(OURS) == "complete" and os.path.exists(PYTHON):
        return True
    shutil.rmtree(VENV, ignore_errors=True)
    for make in venv_commands():
        os.makedirs(VENV, exist_ok=True)
        write(OURS, "begun")
        if subprocess.call(make, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
            write(OURS, "complete")
            return True
        shutil.rmtree(VENV, ignore_errors=True)
    fail(
        "cannot make a virtual environment: this Python has neither venv with pip nor virtualenv. "
        "On Debian or Ubuntu: apt install python3-venv"
    )
    return False


def venv_commands() -> "list[list[str]]":
    """Debian splits ensurepip off: there virtualenv, or the pip outside, may still be at hand."""
    commands = [[sys.executable, "-m", "venv", VENV]]
    program = shutil.which("virtualenv")
    if find_spec("virtualenv"):
        commands.append([sys.executable, "-m", "virtualenv", VENV])
    elif program:
        commands.append([program, "--python", sys.executable, VENV])
    if find_spec("pip"):
        commands.append([sys.executable, "-m", "venv", "--without-pip", VENV])
    return commands


def install(extra: str) -> bool:
    inside = subprocess.call([PYTHON, "-c", "import pip"], stderr=subprocess.DEVNULL) == 0
    pip = [PYTHON, "-m", "pip"] if inside else [sys.executable, "-m", "pip", "--python", PYTHON]
    # Python compiles what is imported, then; pip would compile every file of every package, which takes as long again.
    command = [*pip, "install", "--quiet", "--disable-pip-version-check", "--no-compile", "-c", "constraints.txt"]
    write(OURS, "installing")  # stays so if pip is killed: then the environment is made anew
    failed = subprocess.call([*command, "-e", ".[" + extra + "]"], cwd=ROOT)
    write(OURS, "complete")
    if not failed:
        return True
    fail("pip could not install the packages; its reason is above. The next start tries again.")
    return False


def run_checks(python: str, pytest_options: "list[str]") -> int:
    checks = [("pytest", *pytest_options)] if pytest_options else CHECKS
    # Tests are many small operations: threads would only wait for each other.
    environment = dict({"OMP_NUM_THREADS": "1"}, **os.environ)
    failed = []
    for check in checks:
        say("== " + " ".join(check).replace(" --pythonpath {python}", ""))
        command = [python, "-m", *(part.format(python=python) for part in check)]
        if subprocess.call(command, cwd=ROOT, env=environment) != 0:
            failed.append(check[0])
    if failed:
        return fail("failed: " + ", ".join(failed))
    say("== all passed")
    return 0


def hand_over(command: "list[str]") -> int:
    """Become the command, so that Ctrl-C and other signals reach it directly."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, environment.get("PYTHONPATH")]))
    if os.name == "nt":
        return subprocess.call(command, env=environment)
    return os.execve(command[0], command, environment)


def fingerprint() -> str:
    """Changes when other packages are needed, or the folder was moved: an environment cannot move."""
    digest = hashlib.sha256(VENV.encode())
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def read(path: str) -> "str | None":
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def show(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has gone, and Python would fail over it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fail(text: str, code: int = 1) -> int:
    say("run.py: " + text)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
