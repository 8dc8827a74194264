"""Chapter 05: several beta-VAEs one after the other, as one stack, and in one-thread processes.

    python -m benchmarks.beta_vae [--models 4] [--steps 8] [--rounds 5] [--device cpu]

The baseline trains the models one after the other with `fit`'s step, with all threads that the
process has. The stack trains the same models, to the same weights, as one
(`genmix.parts.beta_stack.Stack`). On a CPU, processes with one thread each, as `genmix sweep`
starts them, are the third way: one per core, at the same time. Interleaved rounds, median of the
ratios.
"""

import argparse
import multiprocessing
import os
import time

from benchmarks.common import compared, go_on, seconds  # first: it sets the number of threads

import torch
from genmix import beta_vae, training
from genmix.parts.beta_stack import Stack
from genmix.configs import BetaVAEConfig
from genmix.data import load


def prepared(models, configs, data, stacked, device):
    "A function that trains all models for some steps."
    if stacked:
        runs = [training.Run(Stack(models, configs, data), data, configs[0])]
    else:
        runs = [training.Run(m, data, c) for m, c in zip(models, configs)]
    for r in runs:
        r.start(None)
        r.model.train()

    def train(steps):
        for r in runs:
            for (batch, n), _ in zip(r.batches(), range(steps)):
                training.train_step(r, batch, n)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return train


def worker(pipe, configs):
    "A process with one thread that trains its share of the models whenever it is asked."
    torch.set_num_threads(1)
    data = load("sprites", "train", n=6400, seed=0)
    train = prepared(
        [beta_vae.model_of(c, data) for c in configs], configs, data, False, torch.device("cpu")
    )
    train(2)
    pipe.send("ready")
    while steps := pipe.recv():
        train(steps)
        pipe.send("done")


def measured(pairs=5, budget=0.0, quick=False, models=4, steps=4, device="cpu"):
    """What is compared -> its ratios, how many times the baseline's rate.

    `slow` and `fast` are in seconds per model and step.
    """
    models, steps = (2, 1) if quick else (models, steps)
    where, cores = training.pick_device(device), os.cpu_count() or 1
    torch.set_num_threads(1 if quick else cores)
    data = load("sprites", "train", n=6400, seed=0)
    configs = [
        BetaVAEConfig(n=6400, steps=100_000, lr=5e-4, beta=4.0, seed=s, device=device)
        for s in range(models)
    ]

    def networks():
        return [beta_vae.model_of(c, data).to(where) for c in configs]

    ways = {
        name: prepared(networks(), configs, data, name == "stacked", where)
        for name in ("in turn", "stacked")
    }
    for train in ways.values():
        train(2)
    pipes = []
    for k in range(min(cores, models) if where.type == "cpu" else 0):
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        multiprocessing.get_context("spawn").Process(
            target=worker, args=(theirs, configs[k::cores]), daemon=True
        ).start()
        pipes.append(ours)
    for p in pipes:
        assert p.recv() == "ready"

    def together(steps):
        for p in pipes:
            p.send(steps)
        for p in pipes:
            p.recv()

    if pipes:
        ways["processes"] = together
    taken, start = {name: [] for name in ways}, time.perf_counter()
    while go_on(k := len(taken["in turn"]), pairs, start, budget):
        for name in list(ways)[:: 1 - 2 * (k % 2)]:
            taken[name].append(seconds(lambda: ways[name](steps)) / models / steps)
    for p in pipes:
        p.send(0)
    for name in list(ways)[1:]:
        yield f"{name} against in turn", compared(taken["in turn"], taken[name])
    if pipes:
        yield "processes against stacked", compared(taken["stacked"], taken["processes"])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    a = parser.parse_args()
    cores = os.cpu_count() or 1
    device = training.pick_device(a.device)
    print(
        f"{a.models} models, batches of 64 sprites, {device}, {cores} threads "
        f"(processes: {cores} with one thread each); "
        f"{a.rounds} interleaved rounds of {a.steps} steps"
    )
    for name, r in measured(a.rounds, models=a.models, steps=a.steps, device=a.device):
        rates = f"{1 / r['fast']:7.1f} against {1 / r['slow']:7.1f} models x steps per second"
        spread = f"({r['least']:.2f}-{r['largest']:.2f})"
        print(f"{name:26} {rates}, {r['median']:.2f} times {spread}")


if __name__ == "__main__":
    main()
