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
from conftest import ROOT, copy_of_the_tree, shared

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def built(tmp_path_factory, worker_id):
    """(sdist, wheel, what was said), built once from a copy, for all workers.

    `build` makes the wheel from the sdist, so the sdist must be complete.
    """

    def make(folder):
        command = [sys.executable, "-W", "default", "-m", "build", "--no-isolation", "--outdir"]
        command += [str(folder / "dist"), str(copy_of_the_tree(folder))]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
        (folder / "said.txt").write_text(done.stdout + done.stderr, encoding="utf-8")

    folder = shared(tmp_path_factory, worker_id, "wheel", make)
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return sdist, wheel, (folder / "said.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    "The scripts folder of an environment with the wheel; a .pth file leads to its requirements."
    home = tmp_path_factory.mktemp("env") / "venv"
    venv.create(home, with_pip=False)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    interpreter = scripts / ("python.exe" if os.name == "nt" else "python")
    site = subprocess.run(
        [interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    Path(site.stdout.strip(), "requirements.pth").write_text(
        sysconfig.get_path("purelib") + "\n", encoding="utf-8"
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(interpreter),
        "install",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
        str(built[1]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return scripts


def run(installed, *args, cwd, timeout=1800):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "GENMIX_DATA")}
    return subprocess.run(
        [str(installed / args[0]), *map(str, args[1:])],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
    )


def test_the_wheel_holds_the_package_and_its_published_results(built):
    names = set(zipfile.ZipFile(built[1]).namelist())
    source = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "genmix").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    inside = {n for n in names if n.startswith("genmix/")}
    assert inside == source, (
        f"only in the wheel: {sorted(inside - source)}; missing: {sorted(source - inside)}"
    )
    assert any(n.startswith("genmix/published/") for n in names)
    others = {n.split("/")[0] for n in names} - {"genmix"}
    assert len(others) == 1 and others.pop().endswith(".dist-info"), (
        "the wheel installs one package: genmix"
    )
    assert [n for n in names if n.endswith("LICENSE")], "the license travels with the wheel"
    assert sum(i.file_size for i in zipfile.ZipFile(built[1]).infolist()) < 30_000_000


def settings():
    cfg = ConfigParser(delimiters=["="], interpolation=None)
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    return cfg["DEFAULT"]


def test_building_warns_of_nothing(built):
    said = [
        line
        for line in built[2].splitlines()
        if re.search(r"warn|deprecat|absent from|ambiguous|not found", line, re.IGNORECASE)
    ]
    assert not [line for line in said if "byte-compiling is disabled" not in line], said


def test_the_metadata_is_that_of_settings(built):
    cfg = settings()
    book = zipfile.ZipFile(built[1])
    text = book.read(next(n for n in book.namelist() if n.endswith("METADATA"))).decode()
    assert (
        f"Version: {cfg['version']}\n" in text
        and f"Requires-Python: >={cfg['min_python']}\n" in text
    )
    needs = {
        m.lower()
        for m in re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==).*$", text, re.MULTILINE)
    }
    assert needs == {re.match(r"[\w-]+", r)[0].lower() for r in cfg["requirements"].split()}
    head = text.partition("\n\n")[0]
    assert f"License-Expression: {cfg['license'].upper()}\n" in head and "License ::" not in head
    assert (
        re.findall(r"Classifier: Programming Language :: Python :: (3\.\d+)", head)
        == cfg["pythons"].split()
    )
    assert cfg["pythons"].split()[0] == cfg["min_python"]


@pytest.mark.parametrize("address", ["", "https://github.com/someone/genmix"])
def test_nothing_on_the_page_of_the_package_index_leads_nowhere(address, tmp_path):
    "The README's links name files that the index does not have: they lead to the repository."
    import shutil

    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "genmix").mkdir()
    (tmp_path / "genmix" / "__init__.py").touch()
    text = (ROOT / "settings.ini").read_text(encoding="utf-8")
    (tmp_path / "settings.ini").write_text(
        re.sub(r"^git_url =.*$", f"git_url = {address}", text, flags=re.MULTILINE), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    head, _, body = (
        (tmp_path / "genmix.egg-info" / "PKG-INFO").read_text(encoding="utf-8").partition("\n\n")
    )
    assert f"Project-URL: Homepage, {address}\n" in head if address else "Project-URL" not in head

    source = (ROOT / "README.md").read_text(encoding="utf-8")
    links, pictures = (
        re.findall(r"(?<!!)\[[^\]]+\]\(([^)]+)\)", body),
        re.findall(r"!\[[^\]]*\]\(([^)]+)\)", body),
    )
    assert all(re.match(r"https?://|#", link) for link in links + pictures), (
        links + pictures
    )  # elsewhere, or to a heading of this page
    if address:
        place = f"{address}/blob/v{settings()['version']}/"
        ours = [
            link.removeprefix(place).partition("#")[0] for link in links if link.startswith(place)
        ]
        ours += [p.partition("/raw/")[2].partition("/")[2] for p in pictures]
        assert (
            len(ours) > 10
            and len(pictures) == source.count("![")
            and all((ROOT / name).exists() for name in ours)
        ), ours
    else:
        assert (
            not pictures
            and "](" not in re.sub(r"\]\((https?://|#)", "", body)
            and "chapter" in body
        )


def test_the_sdist_holds_what_the_wheel_is_built_from(built):
    names = {n.partition("/")[2] for n in tarfile.open(built[0]).getnames()}
    beside = {n for n in names if "/" not in n and "." in n}
    assert (
        beside - {"setup.cfg", "genmix.egg-info"}
        == {
            "setup.py",
            "pyproject.toml",
            "settings.ini",
            "README.md",
            "CHANGELOG.md",
            "CITATION.cff",
            "MANIFEST.in",
        }
        | {"PKG-INFO"} & beside
    )
    assert {"LICENSE", "PKG-INFO", "genmix/__main__.py"} <= names
    inside = {n for n in zipfile.ZipFile(built[1]).namelist() if n.startswith("genmix/")}
    assert inside <= names and not [
        n for n in names if re.search(r"^(tests|nbs|tools)\b|\.ipynb|__pycache__", n)
    ]


def test_the_command_runs_from_anywhere(installed, tmp_path):
    where = run(installed, "python", "-c", "import genmix; print(genmix.__file__)", cwd=tmp_path)
    assert str(installed.parent.resolve()) in str(Path(where.stdout.strip()).resolve()), (
        "the test must not see the checkout"
    )
    done = run(installed, "genmix", "--version", cwd=tmp_path)
    assert done.returncode == 0 and re.search(r"\d+\.\d+\.\d+", done.stdout), done.stderr


def test_reproduce_works_away_from_the_checkout(installed, tmp_path):
    done = run(
        installed,
        "genmix",
        "reproduce",
        "--preset",
        "debug",
        "--out",
        tmp_path / "out",
        cwd=tmp_path,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "synthetic" in done.stdout.splitlines()[0].lower(), (
        "the first line states the data's origin"
    )
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert {".png", ".csv", ".md"} <= {p.suffix for p in files}, files
    assert list(tmp_path.iterdir()) == [tmp_path / "out"], "nothing is written beside --out"
