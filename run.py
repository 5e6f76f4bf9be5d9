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
APP_MODULES = ("torch", "diffusers", "safetensors", "numpy", "PIL", "cv2", "tqdm", "gradio")
TRAIN_MODULES = APP_MODULES + (
    "accelerate",
    "jsonargparse",
    "typeshed_client",
    "yaml",
    "tensorboard",
    "matplotlib",
    "transformers",
)
TEST_MODULES = TRAIN_MODULES + (
    "pytest",
    "pytest_timeout",
    "hypothesis",
    "peft",
    "skimage",
    "thop",
    "ruff",
    "pyright",
)
NEEDS = {"train": ("train", TRAIN_MODULES), "test": ("dev", TEST_MODULES)}
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("pyright", "--pythonpath", "{python}"),
    ("pytest",),
)
USAGE = """usage: python3 run.py upscale INPUT... [options]   make images larger and sharper
       python3 run.py app                         the same in the browser, with before and after
       python3 run.py info FILE                   say what a LoRA or a base model is
       python3 run.py train --config CONFIG       train a LoRA; --help for more
       python3 run.py test [pytest options]       run the checks and tests, or some tests

The first call installs what is needed into .venv here."""


def main(arguments):
    if sys.version_info < (3, 10):
        return fail("DFOSD needs Python 3.10 or newer, this is " + sys.version.split()[0] + ".")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    command = arguments[0]
    try:
        python = ready_python(*NEEDS.get(command, ("app", APP_MODULES)))
    except KeyboardInterrupt:
        return fail("interrupted while installing; the next start begins anew.", 130)
    if python is None:
        return 1
    if command == "test":
        return run_checks(python, arguments[1:])
    if command == "train":
        return hand_over([python, "-m", "train_tools.train", *arguments[1:]])
    return hand_over([python, "-m", "dfosd_core.cli", *arguments])


def ready_python(extra, modules):
    """The Python to use, with everything installed; None after a failure, which has been reported."""
    if all(find_spec(module) for module in modules):
        return sys.executable
    stamp = os.path.join(VENV, "installed-" + extra)
    if read(stamp) == fingerprint():
        return PYTHON
    say("Setting up DFOSD in " + VENV + " (once; a few minutes, most of it for PyTorch) ...")
    if not make_venv() or not install(extra):
        return None
    write(stamp, fingerprint())
    for included in {"dev": ("app", "train"), "train": ("app",)}.get(extra, ()):
        shutil.copy(stamp, os.path.join(VENV, "installed-" + included))
    say("Set up.")
    return PYTHON


def make_venv():
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


def venv_commands():
    """Debian splits ensurepip off: there virtualenv, or the pip outside, may still be at hand."""
    yield [sys.executable, "-m", "venv", VENV]
    if find_spec("virtualenv"):
        yield [sys.executable, "-m", "virtualenv", VENV]
    elif shutil.which("virtualenv"):
        yield [shutil.which("virtualenv"), "--python", sys.executable, VENV]
    if find_spec("pip"):
        yield [sys.executable, "-m", "venv", "--without-pip", VENV]


def install(extra):
    inside = subprocess.call([PYTHON, "-c", "import pip"], stderr=subprocess.DEVNULL) == 0
    pip = [PYTHON, "-m", "pip"] if inside else [sys.executable, "-m", "pip", "--python", PYTHON]
    command = [*pip, "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt"]
    write(OURS, "installing")  # stays so if pip is killed: then the environment is made anew
    failed = subprocess.call([*command, "-e", ".[" + extra + "]"], cwd=ROOT)
    write(OURS, "complete")
    if not failed:
        return True
    fail("pip could not install the packages; its reason is above. The next start tries again.")
    return False


def run_checks(python, pytest_options):
    checks = [("pytest", *pytest_options)] if pytest_options else CHECKS
    failed = []
    for check in checks:
        say("== " + " ".join(check).replace(" --pythonpath {python}", ""))
        command = [python, "-m", *(part.format(python=python) for part in check)]
        if subprocess.call(command, cwd=ROOT) != 0:
            failed.append(check[0])
    if failed:
        return fail("failed: " + ", ".join(failed))
    say("== all passed")
    return 0


def hand_over(command):
    """Become the command, so that Ctrl-C and other signals reach it directly."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, environment.get("PYTHONPATH")]))
    if os.name == "nt":
        return subprocess.call(command, env=environment)
    return os.execve(command[0], command, environment)


def fingerprint():
    """Changes when other packages are needed, or the folder was moved: an environment cannot move."""
    digest = hashlib.sha256(VENV.encode())
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def say(text):
    print(text, file=sys.stderr, flush=True)


def fail(text, code=1):
    say("run.py: " + text)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
