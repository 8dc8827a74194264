"""Sweeps on a cluster: the same call with joblib's backend chosen.

A worker is killed in the middle, and nothing is lost.
"""

import os
import signal
import threading
import time
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest

from genmix import configs, experiments, runs

SLOW = configs.preset("debug", "classifier")


def member(config, out, seconds=0.3):
    "A run that takes a while and writes what it must."

    def work(c, folder):
        time.sleep(seconds)
        runs.save_table(folder / "history.csv", pd.DataFrame({"loss": [1.0 / (1 + c.seed)]}))
        return {"accuracy_test": 0.1 * c.seed, "pid": float(os.getpid())}

    return runs.run(config, work, out, data="none")


@pytest.fixture
def distributed(tmp_path):
    d = pytest.importorskip("distributed", reason="needs dask.distributed (extra cluster)")
    client = d.Client(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=None,
        local_directory=str(tmp_path / "dask"),
    )
    yield client
    client.close()
    client.cluster.close()


def test_a_killed_dask_worker_loses_nothing(distributed, tmp_path):
    "One of two workers is killed while it works; no other run is repeated, and all are there."
    todo = [replace(SLOW, seed=s) for s in range(12)]
    pids = list(distributed.run(os.getpid).values())
    assert len(set(pids)) == 2
    killed = []

    def kill():
        while not list(tmp_path.glob("runs/*/*/result.json")):
            time.sleep(0.02)
        killed.append({p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/*/result.json")})
        os.kill(pids[0], signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    killer = threading.Thread(target=kill)
    killer.start()
    swept = runs.sweep(todo, partial(member, out=tmp_path / "runs"), backend="dask", progress=False)
    killer.join()
    assert not swept.failures and len(swept.done) == len(todo)
    df = runs.table(swept.done)
    assert (
        sorted(df.seed) == list(range(12))
        and len(list(tmp_path.glob("runs/*/*/result.json"))) == 12
    )
    assert len(killed[0]) < 12, "the worker was killed in the middle"
    assert all(p.stat().st_mtime_ns == t for p, t in killed[0].items()), (
        "what was done is not done again"
    )
    assert pids[0] not in distributed.run(os.getpid).values()


@pytest.mark.slow
def test_the_sweep_command_on_dask(tmp_path, capsys):
    pytest.importorskip("distributed", reason="needs dask.distributed (extra cluster)")
    words = ["n=60", "epochs=1", "seed=0,1", "plots=no"]
    df = experiments.sweep_runs(
        "classifier", words, preset="debug", out=tmp_path / "dask", workers=2, backend="dask"
    )
    here = experiments.sweep_runs(
        "classifier", words, preset="debug", out=tmp_path / "here", workers=2
    )
    assert len(df) == 2 and df.accuracy_test.tolist() == here.accuracy_test.tolist()
    assert "2 runs of classifier" in capsys.readouterr().out


def test_no_scheduler_at_the_address(tmp_path, monkeypatch):
    distributed = pytest.importorskip(
        "distributed", reason="needs dask.distributed (extra cluster)"
    )

    def refuse(*args, **kwargs):
        raise OSError("nobody there")

    monkeypatch.setattr(distributed, "Client", refuse)
    monkeypatch.setattr("dask.distributed.Client", refuse)
    with pytest.raises(configs.ConfigError, match="no Dask scheduler answers there"):
        experiments.sweep_runs(
            "classifier",
            ["seed=0,1", "n=60", "epochs=1"],
            preset="debug",
            out=tmp_path,
            backend="dask",
            address="tcp://127.0.0.1:1",
        )


@pytest.mark.slow
def test_the_same_sweep_on_ray(tmp_path):
    pytest.importorskip("ray", reason="needs ray (extra ray)")
    words = ["n=60", "epochs=1", "seed=0,1", "plots=no"]
    df = experiments.sweep_runs(
        "classifier", words, preset="debug", out=tmp_path / "ray", workers=2, backend="ray"
    )
    here = experiments.sweep_runs(
        "classifier", words, preset="debug", out=tmp_path / "here", workers=1
    )
    assert len(df) == 2 and df.accuracy_test.tolist() == here.accuracy_test.tolist()


def test_a_worker_that_says_how_far_it_is(tmp_path):
    "What `progress` is called with: the settings of every run that has ended."
    ended = []
    todo = [replace(SLOW, seed=s) for s in range(4)]
    runs.sweep(todo, partial(member, out=tmp_path, seconds=0), workers=2, progress=ended.append)
    assert sorted(c.seed for c in ended) == [0, 1, 2, 3]
