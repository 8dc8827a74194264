"""`genmix reproduce`: stopped and started again it comes to the same tables.

Its report is one file; it can say beforehand what it costs.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from genmix import configs, experiments, report, reproduce, runs, systems

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def command(folder, *words):
    return [
        sys.executable,
        "-m",
        "genmix",
        "reproduce",
        "latent-opt",
        "--preset",
        "debug",
        "--out",
        str(folder),
        *words,
    ]


@posix
@pytest.mark.slow
def test_a_killed_reproduction_goes_on(tmp_path):
    """Killed while it trains: what is complete is kept and not trained again.

    The tables are those of a run without a break.
    """
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(whole), check=True, capture_output=True, cwd=tmp_path)
    process = subprocess.Popen(
        command(broken),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        start_new_session=True,
    )
    deadline = time.time() + 300
    while not (there := list(broken.glob("runs/*/*/result.json"))) and time.time() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert there and not (broken / "report.html").exists()
    stamps = {p: p.stat().st_mtime_ns for p in broken.glob("runs/*/*/result.json")}
    assert len(stamps) < 5, "killed in the middle"
    done = subprocess.run(command(broken), check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "done in" in done.stdout and all(p.stat().st_mtime_ns == t for p, t in stamps.items())
    a, b = (
        pd.read_csv(f / "tables" / "latent-opt.csv").drop(
            columns=["ms per training image", "ms per new image"]
        )
        for f in (whole, broken)
    )
    pd.testing.assert_frame_equal(a, b)


@pytest.mark.slow
def test_what_the_papers_settings_cost(tmp_path):
    "Nothing is read, fetched or trained; data that is missing is named with its size."
    env = os.environ | {"GENMIX_DATA": str(tmp_path)}
    words = [sys.executable, "-m", "genmix", "reproduce", "vlae", "--preset", "paper", "--cost"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        re.search(r"vlae +mnist +mnist \(12 MB\) +\d+ +[\d,.]+", done.stdout)
        and "hours" in done.stdout
    )
    assert not list(tmp_path.iterdir())


def test_expected_seconds_are_the_published_ones():
    "Every model of the quick preset (with synthetic vowels) has been timed."
    known = runs.published("costs", "costs").value["runs"]
    every = [
        c
        for name, s in systems.chapters().items()
        for c in reproduce.flat(
            s.study.members("quick", "formants" if name == "moe1991" else "auto")
        )
    ]
    every += [c for c in map(experiments.first_phase, every) if c]
    assert {configs.config_hash(c) for c in every} <= set(known)
    seconds = reproduce.expected_seconds(every)
    assert all(seconds[c] == known[configs.config_hash(c)] for c in every)


def test_costs_are_measured_not_typed():
    c = runs.published("costs", "costs").value
    assert len(set(c["notebooks"].values())) > 10 and len(set(c["runs"].values())) > 10
    assert set(c["notebooks"]) == {
        p.stem for p in (Path(__file__).parent.parent / "nbs").glob("[!_]*.ipynb")
    }
    assert (
        sum(n["models"] for n in c["chapters"].values()) == len(c["runs"]) and c["seconds"] < 360
    ), "six minutes on two cores were promised"


def test_headlines_follow_the_published_files():
    t = reproduce.headlines().set_index("quantity")
    table = pd.read_csv(Path(reproduce.__file__).parent / "published" / "moe1991" / "table1.csv")
    mean = table[
        (table.rule == "smooth")
        & (table.data == "vowels")
        & (table.split == "stratified")
        & (table.expert == "softmax")
        & (table.average == "half")
    ]
    for system in ("4 experts", "BP, 6 hidden"):
        assert t.ours[f"epochs, {system}"] == f"{mean[mean.system == system].epochs.mean():,.0f}"
    stored = json.loads(
        (
            Path(reproduce.__file__).parent / "published" / "latent_opt" / "classifier.json"
        ).read_text(encoding="utf-8")
    )
    assert (
        t.ours["accuracy of the classifier, test %"]
        == f"{100 * stored['metrics']['accuracy_test']:.1f}"
    )


def test_progress_without_a_terminal(capsys, monkeypatch):
    "Lines now and then, with an estimate from the runs that are done."
    now = [1000.0]
    monkeypatch.setattr(experiments.time, "time", lambda: now[0])
    said = experiments.Progress({k: 10.0 for k in range(6)})
    for k in range(3):
        now[0] += 20
        said(k)
    said.bar.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["2 of 6 models, about 1.3 minutes left"]


def test_a_report_names_what_is_missing(tmp_path):
    part = report.Part("A", "vae", tmp_path)
    part.say("![gone](figures/vae/gone.png)")
    with pytest.raises(FileNotFoundError, match="gone.png"):
        report.write_report("x", "", [part], tmp_path)


def test_a_report_is_dark_where_the_page_is(tmp_path):
    page = report.page("# A\n\ntext", tmp_path, "A")
    assert (
        "prefers-color-scheme: dark" in page
        and "color-scheme: light dark" in page
        and "http" not in page.replace("https://", "")
    )
