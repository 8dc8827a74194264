"""Chapter 05: training several beta-VAEs one after the other, as one stacked model, and in one-thread processes.

    python -m benchmarks.beta_vae [--models 4] [--steps 8] [--rounds 5] [--device cpu]

The baseline trains the models one after the other with `fit`'s step, with all threads that the process has. The stack trains the same
models, to the same weights, as one (`genmix.beta_vae.Stack`). On a CPU, processes with one thread each, as `genmix sweep` starts them, are the
third way: one per core, at the same time. Interleaved rounds, median of the ratios.
"""

import argparse
import multiprocessing
import os
import statistics

from benchmarks.common import seconds  # first: it sets the number of threads

import torch
from genmix import beta_vae, training
from genmix.configs import BetaVAEConfig
from genmix.data import load


def prepared(models, configs, data, stacked, device):
    "A function that trains all models for some steps."
    if stacked:
        runs = [training.Run(beta_vae.Stack(models, configs, data), data, configs[0])]
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
    train = prepared([beta_vae.model_of(c, data) for c in configs], configs, data, False, torch.device("cpu"))
    train(2)
    pipe.send("ready")
    while steps := pipe.recv():
        train(steps)
        pipe.send("done")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    a = parser.parse_args()
    device, cores = training.pick_device(a.device), os.cpu_count() or 1
    torch.set_num_threads(cores)
    data = load("sprites", "train", n=6400, seed=0)
    configs = [BetaVAEConfig(n=6400, steps=100_000, lr=5e-4, beta=4.0, seed=s, device=a.device) for s in range(a.models)]
    def models(): return [beta_vae.model_of(c, data).to(device) for c in configs]
    ways = {name: prepared(models(), configs, data, name == "stacked", device) for name in ("in turn", "stacked")}
    for train in ways.values():
        train(2)
    pipes = []
    for k in range(cores if device.type == "cpu" else 0):
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        multiprocessing.get_context("spawn").Process(target=worker, args=(theirs, configs[k::cores]), daemon=True).start()
        assert ours.recv() == "ready"
        pipes.append(ours)

    def together(steps):
        for p in pipes:
            p.send(steps)
        for p in pipes:
            p.recv()

    if pipes:
        ways["processes"] = together
    rates = {name: [] for name in ways}
    for k in range(a.rounds):
        for name in list(ways)[:: 1 - 2 * (k % 2)]:
            rates[name].append(a.models * a.steps / seconds(lambda name=name: ways[name](a.steps)))
    for p in pipes:
        p.send(0)
    print(f"{a.models} models, batches of 64 sprites, {device}, {cores} threads (processes: {cores} with one thread each); "
          f"{a.rounds} interleaved rounds of {a.steps} steps")
    for name, r in rates.items():
        ratio = statistics.median(x / y for x, y in zip(r, rates["in turn"]))
        print(f"{name:10} {statistics.median(r):7.1f} models x steps per second, {ratio:.2f} times the baseline")


if __name__ == "__main__":
    main()
