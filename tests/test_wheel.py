"The wheel that users get holds what it needs and nothing else, and works away from the checkout."

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "(sdist, wheel), built from a copy; `build` makes the wheel from the sdist, so the sdist must be complete."
    import shutil

    from conftest import IGNORED

    folder = tmp_path_factory.mktemp("wheel")
    tree = shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=shutil.ignore_patterns(*IGNORED))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(tree)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    "The scripts folder of an environment with the wheel; its requirements are seen through a .pth file."
    home = tmp_path_factory.mktemp("env") / "venv"
    venv.create(home, with_pip=False)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    interpreter = scripts / ("python.exe" if os.name == "nt" else "python")
    site = subprocess.run([interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True)
    Path(site.stdout.strip(), "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--no-deps", "--no-index", "--ignore-installed", str(built[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return scripts


def run(installed, *args, cwd, timeout=1800):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "GENMIX_DATA")}
    return subprocess.run([str(installed / args[0]), *map(str, args[1:])], cwd=cwd, env=env, capture_output=True, text=True,
                          encoding="utf-8", errors="replace", timeout=timeout)


def test_the_wheel_holds_the_package_and_its_published_results(built):
    names = set(zipfile.ZipFile(built[1]).namelist())
    source = {p.relative_to(ROOT).as_posix() for p in (ROOT / "genmix").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    inside = {n for n in names if n.startswith("genmix/")}
    assert inside == source, f"only in the wheel: {sorted(inside - source)}; missing: {sorted(source - inside)}"
    assert any(n.startswith("genmix/published/") for n in names)
    others = {n.split("/")[0] for n in names} - {"genmix"}
    assert len(others) == 1 and others.pop().endswith(".dist-info"), "the wheel installs one package: genmix"
    assert [n for n in names if n.endswith("LICENSE")], "the license travels with the wheel"
    assert sum(i.file_size for i in zipfile.ZipFile(built[1]).infolist()) < 30_000_000


def test_the_metadata_is_that_of_settings(built):
    cfg = ConfigParser(delimiters=["="], interpolation=None)
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    cfg = cfg["DEFAULT"]
    book = zipfile.ZipFile(built[1])
    text = book.read(next(n for n in book.namelist() if n.endswith("METADATA"))).decode()
    assert f"Version: {cfg['version']}\n" in text and f"Requires-Python: >={cfg['min_python']}\n" in text
    needs = {m.lower() for m in re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==).*$", text, re.MULTILINE)}
    assert needs == {re.match(r"[\w-]+", r)[0].lower() for r in cfg["requirements"].split()}


def test_the_sdist_can_be_built_from(built):
    names = {n.partition("/")[2] for n in tarfile.open(built[0]).getnames()}
    assert {"setup.py", "settings.ini", "README.md", "LICENSE", "genmix/__main__.py"} <= names


def test_the_command_runs_from_anywhere(installed, tmp_path):
    where = run(installed, "python", "-c", "import genmix; print(genmix.__file__)", cwd=tmp_path)
    assert str(installed.parent.resolve()) in str(Path(where.stdout.strip()).resolve()), "the test must not see the checkout"
    done = run(installed, "genmix", "--version", cwd=tmp_path)
    assert done.returncode == 0 and re.search(r"\d+\.\d+\.\d+", done.stdout), done.stderr


def test_reproduce_works_away_from_the_checkout(installed, tmp_path):
    done = run(installed, "genmix", "reproduce", "--preset", "debug", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "synthetic" in done.stdout.splitlines()[0].lower(), "the first line states the data's origin"
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert {".png", ".csv", ".md"} <= {p.suffix for p in files}, files
    assert list(tmp_path.iterdir()) == [tmp_path / "out"], "nothing is written beside --out"
