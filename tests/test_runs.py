"""Run folders, sweeps, tables and published results, where they are easiest to break.

A second writer, damage, interruption, killed workers, wrong weights.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from genmix import configs, runs
from genmix.configs import ClassifierConfig
from safetensors import torch as safetensors_torch

ROOT = Path(__file__).resolve().parent.parent
posix = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
CONFIG = ClassifierConfig(epochs=3)


def work(config, folder, metric=1.0):
    "A run that takes no time: its metric is the seed."
    runs.save_table(folder / "history.csv", pd.DataFrame({"epoch": [1], "loss": [metric]}))
    return {"score": float(config.seed), "per_class": [1, 2]}


def another(folder, then="time.sleep(600)"):
    "Another process that holds the folder's lock."
    code = (
        f"import time\nfrom genmix import runs\nwith runs.only_writer({str(folder)!r}):\n"
        f"    print('mine', flush=True)\n    {then}"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "mine\n"
    other.stdout.close()
    return other


# ---------------------------------------------------------------- one writer
def test_the_second_writer_is_refused_at_once_and_let_in_after_a_kill(tmp_path):
    folder = runs.run_folder(tmp_path, CONFIG)
    other = another(folder)
    try:
        start = time.time()
        with pytest.raises(runs.RunError, match="another process is writing"):
            runs.run(CONFIG, work, tmp_path)
        assert time.time() - start < 5
        assert [p.name for p in folder.iterdir()] == [
            ".lock"
        ]  # the refused one has written nothing
    finally:
        other.kill()
        other.wait()
    assert (folder / ".lock").exists()  # stale
    assert runs.read_result(runs.run(CONFIG, work, tmp_path))["metrics"]["score"] == 0


def test_the_lock_is_given_back_after_an_error_and_holds_within_a_process(tmp_path):
    with pytest.raises(ZeroDivisionError), runs.only_writer(tmp_path):
        raise ZeroDivisionError
    with runs.only_writer(tmp_path), pytest.raises(runs.RunError), runs.only_writer(tmp_path):
        pass


def test_a_run_that_another_process_just_finished_is_not_repeated(tmp_path, monkeypatch):
    "Between our first look and our lock, another process may complete the run."
    whole = runs.only_writer

    def slow(folder):
        folder.mkdir(parents=True)
        runs.save_table(folder / "history.csv", pd.DataFrame({"epoch": [1]}))
        runs.save_json(
            folder / "result.json", {"metrics": {"score": 7.0}, "provenance": {"data": "none"}}
        )
        return whole(folder)

    monkeypatch.setattr(runs, "only_writer", slow)
    folder = runs.run(CONFIG, lambda *_: pytest.fail("done again"), tmp_path)
    assert runs.read_result(folder)["metrics"] == {"score": 7.0}


# ---------------------------------------------------------------- done or not
def test_a_complete_run_is_not_repeated(tmp_path, capsys):
    folder = runs.run(CONFIG, work, tmp_path, data="data: toy")
    shown = []
    assert (
        runs.run(
            CONFIG,
            lambda *_: pytest.fail("done again"),
            tmp_path,
            data="data: toy",
            again=lambda *a: shown.append(a),
        )
        == folder
    )
    assert shown == [(folder, {"score": 0.0, "per_class": [1, 2]})]
    assert "complete already" in capsys.readouterr().out
    assert configs.load_config(folder) == CONFIG


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "{}",
        "[]",
        "null",
        '{"metrics": {}, "provenance": {"data": "data: toy"}}',
        '{"metrics": {"a": 1}}',
        '{"metrics": {"a": 1}, "provenance": {"data": 3}}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_a_damaged_result_means_run_again(tmp_path, damage):
    folder = runs.run(CONFIG, work, tmp_path, data="data: toy")
    good = (folder / "result.json").read_bytes()
    (folder / "result.json").write_bytes(damage.encode("latin-1"))
    (folder / "checkpoints").mkdir()
    assert runs.finished(folder, "data: toy") is None
    runs.run(CONFIG, work, tmp_path, data="data: toy")
    assert (
        json.loads((folder / "result.json").read_bytes())["metrics"] == json.loads(good)["metrics"]
    )
    assert (folder / "checkpoints").exists()  # the data are the same: training need not start again


@pytest.mark.parametrize("name", ["history.csv", "result.json"])
def test_missing_and_empty_files(tmp_path, name):
    folder = runs.run(CONFIG, work, tmp_path)
    (folder / "history.csv").write_text("") if name == "history.csv" else (folder / name).unlink()
    assert runs.finished(folder, "none") is None
    if name == "history.csv":
        (folder / name).unlink()
        assert runs.finished(folder, "none") is None
    runs.run(CONFIG, work, tmp_path)
    assert runs.finished(folder, "none")


@pytest.mark.parametrize(
    "then, now",
    [
        (dict(data="data: toy"), dict(data="data: other")),
        (dict(data="data: toy", fingerprint="a"), dict(data="data: toy", fingerprint="b")),
    ],
)
def test_other_data_mean_run_again_without_the_old_checkpoints(tmp_path, then, now, capsys):
    folder = runs.run(CONFIG, work, tmp_path, **then)
    (folder / "checkpoints").mkdir()
    runs.run(CONFIG, work, tmp_path, **now)
    assert "is run again" in capsys.readouterr().out
    assert not (folder / "checkpoints").exists()
    made = runs.read_result(folder)["provenance"]
    assert {k: made[k] for k in now} == now


def test_failures_leave_no_result(tmp_path):
    def fails(config, folder):
        raise configs.ConfigError("lr is too large")

    with pytest.raises(configs.ConfigError):
        runs.run(CONFIG, fails, tmp_path)
    folder = runs.run_folder(tmp_path, CONFIG)
    assert not folder.exists()  # nothing to keep
    (folder / "checkpoints").mkdir(parents=True)
    with pytest.raises(configs.ConfigError):
        runs.run(CONFIG, fails, tmp_path)
    assert (folder / "checkpoints").exists()  # but what was there stays
    for error in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(error):
            runs.run(CONFIG, lambda c, f, error=error: (_ for _ in ()).throw(error), tmp_path)
        assert not (folder / "result.json").exists()


def test_a_rerun_that_fails_leaves_no_old_result(tmp_path):
    folder = runs.run(CONFIG, work, tmp_path, data="data: toy")
    with pytest.raises(RuntimeError):
        runs.run(
            CONFIG, lambda c, f: (_ for _ in ()).throw(RuntimeError()), tmp_path, data="data: other"
        )
    assert not (folder / "result.json").exists()


def test_out_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(configs.ConfigError, match="is a file"):
        runs.run(CONFIG, work, tmp_path / "out")


def test_only_the_first_process_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    worked = []
    folder = runs.run(CONFIG, lambda c, f: worked.append(print("hello")) or {}, tmp_path)
    assert worked == [None] and not folder.exists() and capsys.readouterr().out == ""


def test_provenance_says_what_is_needed(tmp_path):
    folder = runs.run(
        CONFIG,
        lambda c, f: (work(c, f), {"steps": 12, "device": "cpu"}),
        tmp_path,
        data="data: toy",
        fingerprint="abc",
    )
    made = runs.read_result(folder)["provenance"]
    assert {
        "genmix",
        "data",
        "fingerprint",
        "seed",
        "steps",
        "device",
        "threads",
        "torch",
        "seconds",
        "date",
        "command",
        "config",
    } <= set(made)
    assert (made["steps"], made["fingerprint"], made["config"]) == (
        12,
        "abc",
        configs.config_hash(CONFIG),
    )
    assert made["threads"] == 1  # conftest says so


# ---------------------------------------------------------------- files
def test_json_has_only_plain_numbers(tmp_path):
    found = json.loads(
        runs.save_json(
            tmp_path / "a.json",
            {"a": math.inf, "b": np.array([1, math.nan]), 3: (np.int32(4), True)},
        ).read_text()
    )
    assert found == {"a": None, "b": [1.0, None], "3": [4, True]}


def test_arrays_never_hold_objects(tmp_path):
    with pytest.raises(runs.RunError, match="names holds Python objects"):
        runs.save_arrays(tmp_path / "a.npz", {"x": np.zeros(2), "names": np.array(["a", None])})
    np.savez(tmp_path / "b.npz", x=np.array([{}]))
    with pytest.raises(ValueError, match="allow_pickle"):
        runs.load_arrays(tmp_path / "b.npz")


# ---------------------------------------------------------------- sweeps
def member(config, out, calls=None):
    if config.seed == 1:
        raise configs.ConfigError("seed 1 is not liked")
    if config.seed == 2:
        raise ZeroDivisionError("two")
    return runs.run(config, work, out)


@pytest.mark.parametrize("backend", ["none", "loky"])
def test_a_failing_member_stops_nobody(tmp_path, backend, capsys):
    swept = runs.sweep(
        [replace(CONFIG, seed=s) for s in range(5)],
        partial(member, out=tmp_path),
        workers=2,
        backend=backend,
        progress=False,
    )
    assert [runs.read_result(f)["metrics"]["score"] for f in swept.done] == [0, 3, 4]
    assert [(c.seed, why) for c, why in swept.failures] == [
        (1, "seed 1 is not liked"),
        (2, "ZeroDivisionError: two"),
    ]
    out = capsys.readouterr().out
    assert (
        out.startswith("2 of 5 runs failed:\n")
        and "seed 1 is not liked" in out
        and "wrote" not in out
    )
    assert list(runs.table(swept.done).seed) == [0, 3, 4]


def killer(config, out):
    if config.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return runs.run(config, work, out)


@posix
def test_a_member_that_kills_its_worker_costs_only_itself(tmp_path):
    swept = runs.sweep(
        [replace(CONFIG, seed=s) for s in range(4)],
        partial(killer, out=tmp_path),
        workers=2,
        progress=False,
    )
    assert [runs.read_result(f)["metrics"]["score"] for f in swept.done] == [0, 2, 3]
    [(config, why)] = swept.failures
    assert config.seed == 1 and "its worker ended" in why


def once(config, out):
    "Kills its worker the first time."
    flag = out / f"flag-{config.seed}"
    if config.seed == 1 and not flag.exists():
        flag.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return runs.run(config, work, out)


@posix
def test_what_was_killed_by_chance_is_done_in_fresh_workers(tmp_path):
    swept = runs.sweep(
        [replace(CONFIG, seed=s) for s in range(4)],
        partial(once, out=tmp_path),
        workers=2,
        progress=False,
    )
    assert len(swept.done) == 4 and not swept.failures


def count(config):
    import torch

    x = torch.randn(80, 80)
    (x @ x).sum()
    return torch.get_num_threads(), runs.threads()


@pytest.mark.parametrize("backend", ["none", "loky"])
def test_workers_have_one_thread(backend, monkeypatch):
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert (
            runs.sweep([CONFIG, CONFIG], count, workers=2, backend=backend, progress=False).done
            == [(1, 1)] * 2
        )
        assert torch.get_num_threads() == 3 and os.environ["OMP_NUM_THREADS"] == "3"
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_the_same_sweep_on_dask(tmp_path):
    distributed = pytest.importorskip(
        "distributed", reason="needs dask.distributed (extra cluster)"
    )
    with distributed.Client(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=None,
        local_directory=str(tmp_path / "dask"),
    ):
        swept = runs.sweep(
            [replace(CONFIG, seed=s) for s in range(5)],
            partial(member, out=tmp_path),
            backend="dask",
            progress=False,
        )
    assert [runs.read_result(f)["metrics"]["score"] for f in swept.done] == [0, 3, 4] and len(
        swept.failures
    ) == 2


@posix
def test_an_interrupted_sweep_goes_on(tmp_path):
    "Ctrl-C in the middle: what is done stays, and the second call does the rest only."
    code = f"""
import time, pathlib
from dataclasses import replace
import pandas as pd
from genmix import runs
from genmix.configs import ClassifierConfig
from safetensors import torch as safetensors_torch
out = pathlib.Path({str(tmp_path)!r})
def work(config, folder):
    if config.seed == 2 and not (out / "go").exists():
        (out / "waiting").write_text("")
        time.sleep(600)
    runs.save_table(folder / "history.csv", pd.DataFrame({{"epoch": [1]}}))
    return {{"score": float(config.seed)}}
def member(config): return runs.run(config, work, out)
members = [ClassifierConfig(seed=s) for s in range(4)]
swept = runs.sweep(members, member, backend="none", progress=False)
print(len(swept.done))
"""
    first = subprocess.Popen(
        [sys.executable, "-c", code],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(600):
        if (tmp_path / "waiting").exists():
            break
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=60)
    assert first.returncode != 0 and "KeyboardInterrupt" in err
    done = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")}
    assert len(done) == 2
    (tmp_path / "go").write_text("")
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "4\n"
    )
    assert (
        all(p.stat().st_mtime_ns == t for p, t in done.items())
        and len(list(tmp_path.rglob("result.json"))) == 4
    )


# ---------------------------------------------------------------- tables
def test_table_has_what_varies_and_skips_what_is_not_done(tmp_path):
    folders = [
        runs.run(replace(CONFIG, seed=s, lr=lr), work, tmp_path)
        for s in (0, 1)
        for lr in (0.1, 0.2)
    ]
    (folders[3] / "result.json").unlink()
    df = runs.table([*folders, tmp_path / "nothing"])
    assert list(df.columns) == ["lr", "seed", "score", "run"] and len(df) == 3
    assert list(df.lr) == [0.1, 0.2, 0.1]


def test_confidence_intervals():
    from scipy import stats

    rng = np.random.default_rng(0)
    df = pd.DataFrame(
        {
            "method": ["a"] * 7 + ["b"] * 2 + ["c"],
            "seed": range(10),
            "x": rng.normal(5, 2, 10),
            "name": "text",
        }
    )
    df.loc[3, "x"] = math.nan  # a run without this number does not count
    table = runs.summarize(df, "method").set_index("method")
    assert list(table.runs) == [6, 2, 1] and set(table.value) == {"x"}
    for name, g in df.dropna().groupby("method"):
        row = table.loc[name]
        assert row["mean"] == pytest.approx(g.x.mean())
        if len(g) == 1:
            assert math.isnan(row["std"]) and math.isnan(row.low) and math.isnan(row.high)
            continue
        assert row["std"] == pytest.approx(g.x.std())
        assert (row.low, row.high) == pytest.approx(
            tuple(stats.t.interval(0.95, len(g) - 1, g.x.mean(), stats.sem(g.x)))
        )
    wide = runs.summarize(df, ["method"], "x", level=0.99).set_index("method")
    assert wide.low["a"] < table.low["a"]


def test_groups_by_two_columns_and_a_setting_called_n():
    df = pd.DataFrame(
        {"n": [1, 1, 2, 2], "method": list("abab"), "x": [1.0, 2, 3, 4], "y": [0.0] * 4}
    )
    table = runs.summarize(df, ["n", "method"])
    assert list(table.columns) == ["n", "method", "value", "runs", "mean", "std", "low", "high"]
    assert len(table) == 8 and list(table.n.unique()) == [1, 2]


# ---------------------------------------------------------------- weights and published results
@pytest.fixture
def weights(tmp_path):
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    return model, runs.save_weights(
        tmp_path / "w.safetensors", model, CONFIG, {"data": "toy", "nan": math.nan}
    )


def test_weights_come_back_exactly(weights):
    import torch

    model, path = weights
    w = runs.load_weights(path)
    assert w.config == CONFIG and w.provenance == {"data": "toy", "nan": None} and w.name == "w"
    other = w.into(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)))
    assert not other.training
    assert all(
        torch.equal(a, b) and a.dtype == b.dtype
        for a, b in zip(model.state_dict().values(), other.state_dict().values())
    )


def test_half_precision_is_smaller_and_close(tmp_path):
    import torch

    model = torch.nn.Linear(300, 20)
    big, small = (
        runs.save_weights(tmp_path / f"{h}.safetensors", model, CONFIG, {"data": "toy"}, half=h)
        for h in (False, True)
    )
    assert small.stat().st_size < 0.6 * big.stat().st_size
    again = runs.load_weights(small).into(torch.nn.Linear(300, 20))
    assert again.weight.dtype == torch.float32 and torch.allclose(
        again.weight, model.weight, atol=1e-3
    )


def test_weights_that_do_not_fit_change_nothing(weights):
    import torch
    from torch.nn import BatchNorm1d, Linear, Sequential

    w = runs.load_weights(weights[1])
    for model, says in (
        (
            Sequential(Linear(3, 3), BatchNorm1d(3)),
            r"0.weight has shape \[2, 3\], the model's \[3, 3\]",
        ),
        (Sequential(Linear(3, 2)), "1.bias is not in the model"),
        (
            Sequential(Linear(3, 2), BatchNorm1d(2), Linear(2, 2)),
            "2.weight is missing; 2.bias is missing",
        ),
    ):
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(runs.RunError, match=says):
            w.into(model)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_every_flipped_byte_of_weights_is_noticed(weights, tmp_path):
    raw = weights[1].read_bytes()
    for i in range(0, len(raw), 7):
        bad = bytearray(raw)
        bad[i] ^= 0x10
        path = tmp_path / "bad.safetensors"
        path.write_bytes(bad)
        try:
            w = runs.load_weights(path)
        except runs.RunError:
            continue
        good = runs.load_weights(weights[1])  # a byte of the texts beside the numbers
        assert {k: v.tolist() for k, v in w.tensors.items()} == {
            k: v.tolist() for k, v in good.tensors.items()
        }
    for cut in (0, 8, 100, len(raw) - 1):
        path.write_bytes(raw[:cut])
        with pytest.raises(runs.RunError, match="bad.safetensors"):
            runs.load_weights(path)
    with pytest.raises(runs.RunError, match="no such file"):
        runs.load_weights(tmp_path / "nothing.safetensors")


@pytest.fixture
def package(tmp_path, monkeypatch):
    "A package whose genmix/published is ours."
    (tmp_path / "published" / "weights").mkdir(parents=True)
    monkeypatch.setattr(runs.resources, "files", lambda _: tmp_path)
    return tmp_path / "published"


def test_published_results_need_provenance(package):
    (package / "toy").mkdir()
    (package / "toy" / "table.csv").write_text("a,b\n1,2\n")
    (package / "toy" / "bare.json").write_text('{"a": 1}')
    (package / "toy" / "whole.json").write_text('{"a": 1, "provenance": {"data": "toy"}}')
    assert runs.published_names("toy") == ["bare", "table", "whole"]
    for name in ("table", "bare"):
        with pytest.raises(runs.RunError, match="no provenance"):
            runs.published("toy", name)
    assert runs.published("toy", "whole").provenance == {"data": "toy"}
    (package / "toy" / "provenance.json").write_text('{"data": "all of them"}')
    assert runs.published("toy", "table").value.to_dict("list") == {"a": [1], "b": [2]}
    assert runs.published("toy", "table").provenance == {"data": "all of them"}
    for system, name in (("toy", "../toy/whole"), ("toy", "nothing"), ("nowhere", "whole")):
        with pytest.raises(runs.RunError, match="no published result"):
            runs.published(system, name)


def test_pretrained_weights_by_name(package, weights):
    (package / "weights" / "small.safetensors").write_bytes(weights[1].read_bytes())
    assert runs.pretrained("small").config == CONFIG
    with pytest.raises(runs.RunError, match="no published weights 'large'; there is small"):
        runs.pretrained("large")


def test_the_table_of_models_is_that_of_the_files():
    t = runs.pretrained_table()
    assert t.name.tolist() == runs.published_names() and len(t)
    for row in t.itertuples():
        w = runs.pretrained(row.name)
        assert row.parameters == sum(v.numel() for v in w.tensors.values())
        assert (
            row.system == configs.system_of(w.config)
            and row.seed == w.config.seed
            and row.genmix == w.provenance["genmix"]
        )
        assert w.provenance["data"].startswith(f"data: {row.data} (") and row.command.startswith(
            "genmix "
        )
        assert 0 < row.steps and 1.9 < 1e6 * row.MB / row.parameters < 2.1  # two bytes a number
    t = t.set_index("name")
    assert t.log_p_test["vae-mnist"] == runs.published("vae", "mnist").value["metrics"][
        "log_p_test"
    ] and math.isnan(t.mig["vae-mnist"])
    study = runs.published("beta-vae", "study").value
    row = study[
        (study["data"] == "sprites")
        & (study.beta == 16)
        & (study.second_beta == 16)
        & (study["lambda"] == 0)
        & (study.seed == 0)
    ]
    assert (
        t.mig["beta-vae-sprites"] == row.mig.item()
        and t.steps["beta-vae-sprites"] == (row.steps + row.lambda_steps).item()
    )
    assert list(runs.pretrained_table(("kl_test",)).columns) == [
        *t.reset_index().columns[:7],
        "kl_test",
        "genmix",
        "command",
    ]


def test_the_table_of_models_reads_heads_only(package, weights):
    """Metrics come from the run with the same settings; damaged numbers do not show.

    A damaged head is an error that names the file.
    """
    assert runs.pretrained_table().empty and "parameters" in runs.pretrained_table()
    path, raw = package / "weights" / "small.safetensors", weights[1].read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))  # in the numbers
    (package / "classifier").mkdir()
    for name, c, score in (("ours", CONFIG, 0.5), ("other", replace(CONFIG, seed=1), 0.9)):
        about = {
            "config": configs.to_dict(c),
            "metrics": {"mig": score},
            "provenance": {"command": f"genmix {name}"},
        }
        (package / "classifier" / f"{name}.json").write_text(json.dumps(about))
    (row,) = runs.pretrained_table().to_dict("records")
    numbers = sum(v.numel() for v in weights[0].state_dict().values())
    assert (row["name"], row["system"], row["data"], row["parameters"], row["MB"]) == (
        "small",
        "classifier",
        "toy",
        numbers,
        len(raw) / 1e6,
    )
    assert row["mig"] == 0.5 and row["command"] == "genmix ours" and math.isnan(row["log_p_test"])
    with pytest.raises(runs.RunError, match="checksum"):
        runs.pretrained("small")
    bare = safetensors_torch.save({"w": torch.zeros(1)})
    odd = safetensors_torch.save(
        {"w": torch.zeros(1)}, {"config": json.dumps(configs.to_dict(CONFIG)), "provenance": "[]"}
    )
    for bad, why in (
        (raw[:100], "cannot be read"),
        (raw[:-1], "cannot be read"),
        (b"", "cannot be read"),
        (bare, "no 'config'"),
        (odd, "not a dict"),
    ):
        path.write_bytes(bad)
        with pytest.raises(runs.RunError, match=rf"small\.safetensors: .*{why}"):
            runs.pretrained_table()


def test_what_the_package_publishes_can_be_read():
    for name in runs.published_names():
        assert runs.pretrained(name).provenance
    assert runs.published("moe1991", "table1").provenance["genmix"]


def test_a_run_is_published_with_its_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import publish
    from genmix.experiments import train

    run = train(configs.preset("debug", "vae"), tmp_path / "runs")
    to = tmp_path / "published"
    names = [
        str(p.relative_to(to))
        for p in publish.publish(run, "vae/small", weights="vae-small", to=to)
    ]
    assert names == [
        os.path.join(*n)
        for n in (
            ("vae", "small_history.csv"),
            ("vae", "small.json"),
            ("weights", "vae-small.safetensors"),
        )
    ]
    d, result = json.loads((to / "vae" / "small.json").read_text()), runs.read_result(run)
    assert (
        d["metrics"] == result["metrics"]
        and d["provenance"] == result["provenance"]
        and configs.from_dict(d["config"]) == configs.load_config(run)
    )
    assert (to / "vae" / "small_history.csv").read_bytes() == (run / "history.csv").read_bytes()
    half, whole = (
        runs.load_weights(p)
        for p in (to / "weights" / "vae-small.safetensors", run / "model.safetensors")
    )
    assert all(
        half.tensors[k].dtype == torch.float16
        and torch.allclose(half.tensors[k].float(), v, atol=1e-3)
        for k, v in whole.tensors.items()
    )
    assert half.config == whole.config and half.provenance == whole.provenance
    (tmp_path / "t.csv").write_text("a\n1\n")
    assert [p.name for p in publish.publish(run, "vae/t", table=tmp_path / "t.csv", to=to)] == [
        "t.csv",
        "t.json",
    ]
    monkeypatch.setattr(publish, "PUBLISHED", to)
    monkeypatch.setattr("sys.argv", ["publish.py", str(tmp_path), "vae/none"])
    with pytest.raises((SystemExit, FileNotFoundError)):
        publish.main()
    assert "result.json" in capsys.readouterr().err


def test_published_histories_carry_the_provenance_of_their_run():
    for system in ("vae", "latent_opt"):
        for name in runs.published_names(system):
            assert runs.published(system, name).provenance["data"].startswith("data: "), (
                system,
                name,
            )
