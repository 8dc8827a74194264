"""One system, one place: the general rooms name no system.

And a system from outside comes in by the same door.
"""

import importlib
import os
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from genmix import configs, experiments, figures, reproduce, runs, systems
from genmix.configs import Config, ConfigError

GENERAL = ("cli", "experiments", "figures", "reproduce", "report", "runs", "training", "systems")
TOY = Path(__file__).parent / "toy"


def names():
    "How a system may be named in a source: as on the command line, as a module, by its settings."
    found = set(configs.CHAPTERS) | set(configs.STUDIES)
    found |= {name.replace("-", "_") for name in found}
    built_in = {name: configs.SYSTEMS[name] for name in configs.STUDIES}
    return sorted(found | {cls.__name__ for cls in built_in.values()})


def named_in(text):
    "Which systems a text names."
    return [n for n in names() if re.search(rf"(?<![\w-]){re.escape(n)}(?![\w])", text)]


@pytest.mark.parametrize("room", GENERAL)
def test_general_rooms_name_no_system(room):
    found = named_in((ROOT / "genmix" / f"{room}.py").read_text(encoding="utf-8"))
    assert not found, f"genmix/{room}.py names {', '.join(found)}"


def test_the_search_for_names_finds_some():
    assert named_in("from genmix import smoe_vae") == ["smoe_vae"]
    assert named_in("genmix train beta-vae --seed 1") == ["beta-vae"]
    assert named_in("c: BetaVAEConfig") == ["BetaVAEConfig"] and named_in("vaes, a vaexact") == []


def test_every_system_of_the_book_has_a_record():
    assert [s.name for s in systems.every()][: len(configs.STUDIES)] == list(configs.STUDIES)
    assert list(systems.chapters())[: len(configs.CHAPTERS)] == list(configs.CHAPTERS)
    for s in systems.every():
        assert s.settings is configs.SYSTEMS[s.name]
        assert (s.model_of and s.measure) or (s.load and s.train), s.name


# ---------------------------------------------------------------- a system from outside
@pytest.fixture(scope="module")
def toy():
    "The toy's module, registered; forgotten afterwards."
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)  # workers started before do not find the module
    before = dict(configs.SYSTEMS), {k: dict(v) for k, v in configs.PRESETS.items()}
    named = dict(configs.NAMED)
    sys.path.insert(0, str(TOY))
    try:
        yield importlib.import_module("toy_system")
    finally:
        sys.path.remove(str(TOY))
        systems.REGISTER.pop("toy", None)
        configs.SYSTEMS.clear()
        configs.SYSTEMS.update(before[0])
        for name, presets in before[1].items():
            configs.PRESETS[name] = presets
        configs.NAMED.clear()
        configs.NAMED.update(named)
        sys.modules.pop("toy_system", None)


def test_toy_trains_and_its_run_is_drawn_again(toy, tmp_path, capsys):
    folder = experiments.train(configs.preset("debug", "toy"), out=tmp_path / "runs")
    said = capsys.readouterr().out
    assert folder.parent.name == "toy" and "toy_error" in said
    assert {"mean.png", "curves.png"} <= {p.name for p in (folder / "figures").iterdir()}
    assert configs.load_config(folder) == configs.preset("debug", "toy")
    assert type(experiments.load_model(folder)).__name__ == "Mean"
    drawn = figures.draw(run=folder, out=tmp_path / "figures")
    assert sorted(p.stem for p in drawn) == ["toy-curves", "toy-mean"]
    assert "toy-line" in figures.FIGURES and figures.FIGURES["toy-mean"].source == "toy"
    experiments.train(configs.preset("debug", "toy"), out=tmp_path / "runs")
    assert "complete already" in capsys.readouterr().out


def test_toy_is_swept_in_processes_of_its_own(toy, tmp_path, capsys):
    words = ["start=.25,.75", "seed=0,1", "epochs=1", "plots=no"]
    df = experiments.sweep_runs("toy", words, out=tmp_path, workers=2)
    assert len(df) == 4 and set(df.start) == {0.25, 0.75} and df.toy_error.notna().all()
    assert "toy_error" in capsys.readouterr().out


def test_toy_is_reported_beside_the_paper(toy, tmp_path, capsys):
    report = reproduce.reproduce(["toy"], preset="debug", out=tmp_path / "all")
    text = (report.parent / "report.md").read_text(encoding="utf-8")
    assert "## A mean image" in text and "Error by start" in text and "nowhere" in text
    assert (report.parent / "tables" / "toy-starts.csv").is_file()
    assert reproduce.beside(_part("toy", tmp_path))["ours"].tolist() == ["2.0"]
    with pytest.raises(ConfigError, match="toy cannot use --data sprites; it needs images"):
        reproduce.data_of(["toy"], "sprites")
    assert reproduce.data_of([], "digits")["toy"] == "digits"


def _part(system, out):
    from genmix.report import Part

    return Part("A mean image", system, out)


def test_toy_has_presets_and_settings_that_are_checked(toy):
    assert configs.preset_names("toy") == ("quick", "debug", "grey")
    assert configs.preset("grey", "toy").start == 0.1
    with pytest.raises(ConfigError, match="shrink must be a whole number"):
        toy.ToyConfig(shrink=1.5)
    with pytest.raises(ConfigError, match="toy has no stack"):
        experiments.sweep_runs("toy", ["seed=0,1"], stacked=True)


@pytest.fixture
def site(tmp_path, python):
    "An environment with packages that name a system: site(name, module) -> command(*words)."
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "toy_system.py").write_bytes((TOY / "toy_system.py").read_bytes())
    env = {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}

    def install(name, module):
        about = folder / f"{name}_system-1.0.dist-info"
        about.mkdir()
        meta = f"Metadata-Version: 2.1\nName: {name}-system\nVersion: 1.0\n"
        (about / "METADATA").write_text(meta)
        (about / "entry_points.txt").write_text(f"[genmix.systems]\n{name} = {module}\n")
        return lambda *words: python("-m", "genmix", *words, cwd=tmp_path, env=env)

    return install


def test_every_command_finds_a_system_that_a_package_names(site, tmp_path):
    "As an installed package would: a module, and metadata with the entry point."
    genmix = site("toy", "toy_system")
    done = genmix("train", "toy", "--epochs", "1", "--start", "0.3")
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "runs" / "toy").iterdir()
    assert "toy_error" in done.stdout
    drawn = genmix("figures", "--run", str(folder))
    assert drawn.returncode == 0 and "toy-mean.png" in drawn.stdout, drawn.stderr
    assert genmix("figures", "toy-line").returncode == 0
    again = genmix("train", "vae", "--config", str(folder / "config.json"))
    assert again.returncode == 2 and "settings of toy, not of vae" in again.stderr
    swept = genmix("sweep", "toy", "seed=0,1", "--preset", "grey", "--workers", "1")
    assert swept.returncode == 0 and "2 runs of toy" in swept.stdout, swept.stderr
    shown = genmix("--help")
    assert "genmix train toy" in shown.stdout and "Train a mean image (a toy)." in shown.stdout


def test_a_package_that_cannot_be_imported_is_named_and_left_out(site):
    genmix = site("gone", "not_there")
    shown = genmix("--help")
    assert shown.returncode == 0 and "genmix train vae" in shown.stdout
    assert "genmix: note: the system 'gone' of gone-system is left out: not_there" in shown.stderr
    wrong = genmix("train", "gan")
    assert wrong.returncode == 2 and "there is genmix train moe1991" in wrong.stderr


def test_presets_of_another_system_are_not_replaced(toy):
    with pytest.raises(ConfigError, match="'mnist' belongs to VLAEConfig"):
        configs.add("toy", toy.ToyConfig, {"mnist": toy.ToyConfig()})
    assert "mnist" in configs.preset_names("vlae")


def test_an_unknown_system_is_refused_in_one_sentence():
    with pytest.raises(ConfigError, match="there is no system 'gan'; there is moe1991"):
        systems.find("gan")


# ---------------------------------------------------------------- settings of one's own
def test_runs_and_sweeps_take_settings_that_nobody_registered(tmp_path):
    "They used to end in a bare StopIteration."
    from dataclasses import dataclass

    import pandas as pd

    @dataclass(frozen=True)
    class OwnConfig(Config):
        "Settings of a user."

        size: int = 3  # anything

    def work(config, folder):
        runs.save_table(folder / "history.csv", pd.DataFrame({"loss": [1.0]}))
        return {"twice": 2 * config.size}

    folder = runs.run(OwnConfig(), work, out=tmp_path)
    assert folder.parent.name == "own" and configs.load_config(folder) == OwnConfig()

    def member(c):
        return runs.run(c, work, out=tmp_path)

    swept = runs.sweep([OwnConfig(size=k) for k in (1, 2)], member, workers=2, progress=False)
    assert not swept.failures
    assert runs.table(swept.done)[["size", "twice"]].values.tolist() == [[1, 2], [2, 4]]
    configs._OWN.pop("own")  # as in another process, which never saw the class
    assert runs.table(swept.done)[["size", "twice"]].values.tolist() == [[1, 2], [2, 4]]


def test_a_class_whose_name_is_taken_is_refused():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class VAEConfig(Config):
        "Not the book's."

        size: int = 3  # anything

    with pytest.raises(ConfigError, match="would be called 'vae', as another system is"):
        configs.system_of(VAEConfig())
