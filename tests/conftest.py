"""What every test shares: one thread, nothing of the user's home, and where the project is.

GENMIX_DATA is kept if it is set; tests that need real data ask for it with `real_vowels` and are
skipped, saying why, where it is not there.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
NBS = sorted((ROOT / "nbs").glob("[!_.]*.ipynb"))

sys.path.insert(0, str(ROOT))  # this checkout, installed or not

# Before NumPy or torch is imported, here and in every subprocess.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("MPLBACKEND", "agg")
for name in ("IN_TEST", "COLUMNS", "GENMIX_DEBUG"):
    os.environ.pop(name, None)

# A home of our own: no file of the user's is read, none is written.
HOME = Path(tempfile.mkdtemp(prefix="genmix-test-home-"))
for name in (
    "HOME",
    "USERPROFILE",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "LOCALAPPDATA",
    "APPDATA",
):
    os.environ[name] = str(HOME)
os.environ["MPLCONFIGDIR"] = str(HOME / "matplotlib")
os.environ["IPYTHONDIR"] = str(HOME / "ipython")

# What a copy of the source tree leaves out: what git ignores.
IGNORED = (
    "__pycache__",
    "*.egg-info",
    ".ipynb_checkpoints",
    ".pytest_cache",
    ".hypothesis",
    ".ruff_cache",
    ".venv*",
    ".git",
    "build",
    "dist",
    "_docs",
    "_proc",
    ".quarto",
    "runs",
    "reproduction",
    "out",
    "*.log",
)


def pytest_configure(config):
    import matplotlib.font_manager  # noqa: F401  builds matplotlib's font list once, so that no command under test has to and says so


def pytest_unconfigure(config):
    shutil.rmtree(HOME, ignore_errors=True)


def tool(name):
    "A script of tools/ as a module."
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shared(tmp_path_factory, worker_id, name, make):
    """What `make(folder)` left in a folder that all workers share: made by the first, once.

    A worker that comes later waits for the first one, and finds the folder whole.
    """
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent
    folder = base / name
    with FileLock(base / f"{name}.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "done").touch()
    return folder


def copy_of_the_tree(folder):
    "A copy of the source tree in `folder`, with uncommitted files, without git."
    ignored = shutil.ignore_patterns(*IGNORED)
    return Path(shutil.copytree(ROOT, folder / "genmix-copy", symlinks=True, ignore=ignored))


@pytest.fixture
def tree(tmp_path):
    "A copy of the source tree, with uncommitted files, without git."
    return copy_of_the_tree(tmp_path)


@pytest.fixture
def real_vowels():
    "The real vowels' CSV file, or a skip that says how to get it."
    root = os.environ.get("GENMIX_DATA")
    if not root:
        pytest.skip(
            "needs the real vowels: set GENMIX_DATA to a folder that holds them "
            "(`genmix data fetch vowels` gets them)"
        )
    found = [
        p
        for folder in ("", "vowels", "pb52")
        for name in ("pb52.csv", "pb52_dataset.csv")
        if (p := Path(root, folder, name)).is_file()
    ]
    if not found:
        pytest.skip("needs the real vowels: GENMIX_DATA is set, but holds no pb52.csv")
    return found[0]


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Do what `genmix ...` does, in this process: command('train', 'vae') -> CompletedProcess.

    It begins in an empty folder. `process` is the real thing, for what a process of its own
    decides: signals, pipes, terminals, encodings, what is loaded.
    """
    from genmix import cli

    def run(*words, cwd=tmp_path, env=None):
        words = [str(word) for word in words]
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["genmix", *words])
            patch.setattr(warnings, "showwarning", warnings.showwarning)  # main sets its own
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            code = cli.main(words)
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(["genmix", *words], code, out, err)

    return run


@pytest.fixture
def process(python, tmp_path):
    "Run `python -m genmix ...` in an empty folder: process('train', 'vae') -> CompletedProcess."
    return lambda *args, **kw: python("-m", "genmix", *args, **{"cwd": tmp_path, **kw})


@pytest.fixture
def python():
    "Run the interpreter: python('-m', 'genmix', cwd=...) -> CompletedProcess with text output."

    def run(*args, cwd=ROOT, env=None, timeout=1800):
        env = {**os.environ, **(env or {})}
        return subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=cwd,
            env=env,
            timeout=timeout,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )

    return run
