"""Chapter 01 beyond its notebook: published numbers recomputed, the earlier run, scikit-learn's
suite, killed studies, the benchmark."""

import re
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from genmix import configs, experiments, moe1991
from genmix.studies import moe1991_pictures as moe_pictures
from genmix.data import four_vowels, load
from genmix.studies import moe1991 as study

ROOT = Path(__file__).resolve().parent.parent


def recomputed(task, rows, average):
    "The published rows' runs, trained again."
    models = study.systems(expert=rows.expert.iloc[0])
    return pd.concat(
        [
            study.measure({s: models[s]}, task, {s: [lr]}, sorted(g.seed), average=average)
            for (s, lr), g in rows.groupby(["system", "lr"], sort=False)
        ]
    )


def compare(published, again):
    "Epochs may differ by one where rounding decides on which side of the target an error falls."
    both = published.merge(again, on=["system", "seed"], suffixes=("", "_again"))
    assert len(both) == len(published) > 0
    assert (abs(both.epochs - both.epochs_again) <= 1).all(), both[
        ["system", "seed", "epochs", "epochs_again"]
    ]
    np.testing.assert_allclose(both.test, both.test_again, atol=0.011)


def test_published_table_on_formants():
    rows = study.variant(study.published("table1"), data="formants", rule="smooth")
    compare(
        rows[rows.seed < 2], recomputed(four_vowels(load("formants")), rows[rows.seed < 2], "half")
    )


@pytest.mark.parametrize(
    "split, expert, average",
    [
        ("stratified", "softmax", "half"),
        ("shifted", "softmax", "half"),
        ("stratified", "linear", "mean"),
    ],
)
def test_published_table_on_the_real_vowels(real_vowels, split, expert, average):
    rows = study.variant(
        study.published("table1"), split=split, expert=expert, average=average, rule="smooth"
    )
    rows = rows[rows.seed.isin([3, 24])]
    compare(rows, recomputed(four_vowels(load("vowels"), split=split), rows, average))


def test_the_earlier_run_on_the_real_vowels(real_vowels, tmp_path, capsys):
    "81 epochs, 86.5 % and 75.0 %, as documented by the earlier implementation."
    folder = experiments.train(configs.preset("earlier", "moe1991"), out=tmp_path)
    assert capsys.readouterr().out.startswith("data: vowels, official")
    log = pd.read_csv(folder / "history.csv").iloc[-1]
    assert (log.epoch, round(log.train, 3), log.test, round(log.mse, 4)) == (
        81,
        0.865,
        0.75,
        0.0799,
    )
    assert list(study.published("earlier")["runs"][0]["responsibilities"][1]) == pytest.approx(
        [0.008, 0.006, 0.959, 0.027], abs=5e-4
    )


def test_the_quick_table_is_the_published_one(tmp_path):
    "`table1` without step sizes takes those of the published search, for either rule."
    config = configs.Table1Config(data="formants", trials=2, plots=False)
    runs = pd.read_csv(experiments.train(config, out=tmp_path) / "history.csv")
    published = study.variant(study.published("table1"), data="formants")
    for rule, g in runs.groupby("rule"):
        mine = published[(published.rule == rule) & (published.seed < 2)]
        np.testing.assert_allclose(sorted(g.lr.unique()), sorted(mine.lr.unique()), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [moe1991.MixtureOfExpertsClassifier, moe1991.BackpropClassifier])
def test_scikit_learns_suite_on_the_defaults(kind):
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(kind(), on_skip=None)
    assert {r["status"] for r in results} <= {"passed", "skipped"}
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= {
        "check_array_api_input"
    }


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_tables(tmp_path):
    """SIGKILL at random moments; what is called complete is whole, and the final tables are those
    of an undisturbed run."""
    command = [
        sys.executable,
        "-m",
        "genmix",
        "reproduce",
        "moe1991",
        "--preset",
        "debug",
        "--data",
        "formants",
        "--out",
    ]
    whole, broken, rng = tmp_path / "whole", tmp_path / "broken", random.Random(0)
    start = time.monotonic()
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    usual = time.monotonic() - start
    for _ in range(5):
        process = subprocess.Popen(
            [*command, str(broken)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.2, 0.9) * usual)
        process.kill()
        process.wait()
        for result in broken.glob("runs/*/*/result.json"):
            assert (
                configs.load_config(result.parent)
                and (result.parent / "history.csv").stat().st_size > 0
            )
    subprocess.run([*command, str(broken)], check=True, capture_output=True)
    tables = sorted(
        p.relative_to(whole)
        for p in [*whole.glob("tables/*.csv"), *whole.glob("runs/*/*/history.csv")]
    )
    assert len(tables) >= 6
    for table in tables:
        assert (broken / table).read_bytes() == (whole / table).read_bytes(), table


@pytest.mark.slow
def test_the_benchmark_compares_like_with_like():
    "It checks that both sides compute the same weights, and prints a ratio for every system."
    command = [
        sys.executable,
        "-m",
        "benchmarks.moe1991",
        "--pairs",
        "1",
        "--epochs",
        "20",
        "--runs",
        "3",
    ]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert all(system in out for system in study.systems())


def test_the_explorer_is_a_plain_function_of_its_sliders():
    import matplotlib.pyplot as plt

    box = moe_pictures.explore(four_vowels(load("formants")))
    settings = {w.description: w.value for w in box.children[:-1]}
    assert set(settings) == {"experts", "expert", "error", "eta", "sigma", "tau", "epochs", "seed"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # plt.show() has no window here
        runs = box.f(**settings | {"epochs": 100, "experts": 2, "expert": "linear", "eta": 0.3})
    assert (runs.epochs[0], runs.model.K, runs.model.expert) == (100, 2, "linear")
    plt.close("all")


@pytest.mark.parametrize("name", ["formants", "vowels"])
def test_every_table_of_the_quick_study_finds_its_step_sizes(name):
    for config in study.study("quick", name)["tables"]:
        steps = study.step_sizes(config, None)
        assert set(steps) == set(study.RULES) and all(
            set(s) == set(study.systems()) for s in steps.values()
        )


@pytest.mark.slow
def test_the_readmes_first_command(python, tmp_path):
    "`genmix reproduce` with no data anywhere: synthetic, said first; ends by naming what exists."
    done = python(
        "-m", "genmix", "reproduce", cwd=tmp_path, env={"GENMIX_DATA": str(tmp_path / "empty")}
    )
    assert done.returncode == 0, done.stderr
    assert re.match("moe1991 +data: formants, SYNTHETIC", done.stdout)
    out = tmp_path / "reproduction"
    linked = re.findall(
        r"\]\(((?:figures|tables)/[^)]+)\)", (out / "report.md").read_text(encoding="utf-8")
    )
    assert len(linked) > 100 and all((out / p).is_file() for p in linked)
    whole = (out / "report.html").read_text(encoding="utf-8")
    assert 'src="figures' not in whole and whole.count(";base64,") == sum(
        p.startswith("figures/") for p in linked
    )  # one file
    assert whole.count("Beside the paper") == len(configs.CHAPTERS) and "nan" not in re.findall(
        r">(nan|NaN|inf)<", whole
    )
    assert all(
        (out / p).with_suffix(".json").is_file() for p in linked if p.endswith(".csv")
    )  # how each table was made


def test_other_data_under_the_same_name_is_a_new_run(tmp_path, capsys):
    table = load("formants", seed=0)
    file, config = (
        tmp_path / "mine.csv",
        configs.MoE1991Config(data=str(tmp_path / "mine.csv"), epochs=3, plots=False),
    )
    file.write_text(table.to_csv(), encoding="utf-8")
    folder = experiments.train(config, out=tmp_path / "runs")
    first = (folder / "result.json").read_text(encoding="utf-8")
    file.write_text(load("formants", seed=1).to_csv(), encoding="utf-8")
    assert experiments.train(config, out=tmp_path / "runs") == folder
    assert "is run again: its data was" in capsys.readouterr().out
    assert (folder / "result.json").read_text(encoding="utf-8") != first
