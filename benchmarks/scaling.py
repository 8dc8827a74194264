"""Chapter 08: how far sweeps and data-parallel training scale on this machine.

    python -m benchmarks.scaling [--runs 8] [--steps 120] [--rounds 5]
        [--json genmix/published/scaling/scaling.json]

A sweep of equal runs (a small VAE on digits, one thread each) one after the other in this process,
with one process per core (joblib's loky), on a Dask cluster and on a Ray cluster of one-thread
workers on this machine; every way starts its workers anew, as a command does, and gets a fresh
folder. Then one training run: one thread, as many threads as cores, and as many processes with one
thread each (torchrun). All ways in every round, in an order that alternates; the ratio to the first
way is taken within the round, and its median printed.
"""

import argparse
import contextlib
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.common import ratios  # first: it sets the number of threads

import torch

from genmix import configs, experiments, runs


def settings(steps):
    return replace(configs.preset("quick", "vae"), width=8, steps=steps, samples=2, plots=False)


def swept(backend, members, workers):
    "Seconds of a sweep from nothing: the workers' start is part of it."
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        with experiments.cluster("loky" if backend == "none" else backend, workers=workers):
            found = runs.sweep(
                members,
                partial(experiments.train, out=out),
                workers,
                backend=backend,
                progress=False,
            )
        took = time.perf_counter() - start
    assert not found.failures, found.failures
    if backend == "loky":
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)
    return took


def trained(processes, threads, config):
    "Seconds per step of one run, as its history says: without start and measuring."
    with tempfile.TemporaryDirectory() as out:
        words = [f"--{k}={getattr(config, k)}" for k in ("width", "steps", "samples", "batch")] + [
            "--no-plots",
            "--out",
            out,
        ]
        start = (
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={processes}",
            ]
            if processes > 1
            else [sys.executable]
        )
        subprocess.run(
            [*start, "-m", "genmix", "train", "vae", *words],
            check=True,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        folder = next(Path(out).glob("vae/*/result.json")).parent
        made = runs.read_result(folder)["provenance"]
        return made["training_seconds"] / made["steps"]


def available(backends):
    "Those whose packages are here."
    found = []
    for b in backends:
        try:
            __import__({"dask": "distributed", "ray": "ray"}.get(b, "joblib"))
            found.append(b)
        except ImportError:
            print(f"{b}: not installed, left out")
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results to this file as well")
    a = parser.parse_args()
    cores = os.cpu_count() or 1
    torch.set_num_threads(1)
    c, began = settings(a.steps), time.time()
    members = [replace(c, seed=s) for s in range(a.runs)]
    print(
        f"{a.runs} runs of {a.steps} steps on {cores} cores, {platform.machine()}, torch "
        f"{torch.__version__}; {a.rounds} rounds",
        flush=True,
    )
    ways = {
        b: partial(swept, b, members, cores) for b in ("none", *available(("loky", "dask", "ray")))
    }
    long = replace(c, steps=3 * a.steps, width=16)
    fits = {
        "1 thread": (1, 1),
        f"{cores} threads": (1, cores),
        f"{cores} processes (torchrun)": (cores, 1),
    }
    fits = {
        name: partial(trained, processes, threads, long)
        for name, (processes, threads) in fits.items()
    }
    found = {}
    for what, candidates in (("sweep", ways), ("training", fits)):
        times = {name: [] for name in candidates}
        for k in range(a.rounds):
            for name in list(candidates)[:: 1 - 2 * (k % 2)]:
                times[name].append(candidates[name]())
        base = next(iter(candidates))
        found[what] = {
            name: {"seconds": round(statistics.median(t), 4), **ratios(times[base], t)}
            for name, t in times.items()
        }
        for name, r in found[what].items():
            print(
                f"{what:9} {name:26} {r['seconds']:9.3f} s  {r['median']:5.2f} times {base} "
                f"({r['least']:.2f}-{r['largest']:.2f})",
                flush=True,
            )
    if a.json:
        about = dict(
            cores=cores,
            runs=a.runs,
            steps=a.steps,
            rounds=a.rounds,
            load=round(os.getloadavg()[0], 1),
        )
        made = runs.provenance(
            "data: digits train, bundled (scikit-learn's load_digits)",
            time.time() - began,
            c,
            **about,
        )
        runs.save_json(
            a.json, found | {"provenance": made | {"command": "python -m benchmarks.scaling"}}
        )


if __name__ == "__main__":
    main()
