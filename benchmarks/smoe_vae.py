"""Chapter 04: training and evaluating a mixture of decoder experts, against the structure of the published code.

    OMP_NUM_THREADS=2 python -m benchmarks.smoe_vae [--data mnist] [--experts 5 50] [--images 12800] [--json FILE]

The baseline is written as the published code is: a ModuleList of experts that all draw every image in training, doubling and convolution
as two steps, a DataLoader over PIL images (torchvision's MNIST class), Adam, `loss.item()` in every step, and an evaluation that calls the
chosen expert image by image. The same images, batch size, weights to begin with, loss (equation 4.4) and Adam on both sides.

How much `skip` saves depends on how far the gate has made up its mind, so our side is trained on, and both are timed in slices of steps at
the epochs 1, 2, 4, 8 and 16 (interleaved, an own process per side; what a step of the published structure costs does not depend on the gate).
The time of 20 epochs is the integral over these slices by the trapezoidal rule. At the end both evaluate the same images, and decode the same
codes by one expert each.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.common import seconds  # first: it sets the number of threads

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from genmix import __version__, smoe_vae, training
from genmix.configs import SMoEVAEConfig
from genmix.data import load

EPOCHS = (1, 2, 4, 8, 16)


class Published(nn.Module):
    "The published structure: modules for everything, loops over experts and, in evaluation, over images."

    def __init__(self, m):
        super().__init__()
        self.config, self.encoder, self.gate = m.config, m.encoder, m.gate
        self.experts = nn.ModuleList(self.expert(m.experts, k) for k in range(m.experts.K))

    @staticmethod
    def expert(e, k):
        m = nn.Sequential(nn.Linear(e.latent, 8 * 49), nn.Unflatten(1, (8, 7, 7)), nn.Upsample(scale_factor=2), nn.Conv2d(8, 16, 3, padding=1), nn.ELU(),
                          nn.Upsample(scale_factor=2), nn.Conv2d(16, 1, 3, padding=1), nn.Sigmoid())
        for layer, w, b in zip((m[0], m[3], m[6]), e.weights, e.biases):
            layer.weight.data, layer.bias.data = w.data[k].clone(), b.data[k].clone()
        return m

    def codes(self, x):
        mu, logvar = self.encoder(x).chunk(2, 1)
        return mu, logvar, mu + (logvar / 2).exp() * torch.randn_like(mu)

    def loss(self, x):
        c, (mu, logvar, z) = self.config, self.codes(x)
        p = F.softmax(self.gate(z), 1)
        drawn = torch.stack([e(z) for e in self.experts], 1)  # [B, K, 1, 28, 28]
        image = (p[:, :, None, None, None] * drawn).sum(1)
        kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum()
        uneven = c.num_experts * ((p.mean(0) - 1 / c.num_experts) ** 2).sum()
        unsure = -(p * (p + 1e-9).log()).sum(1).mean()
        return (F.mse_loss(image, x, reduction="sum") + c.beta * kl + c.balance * uneven + c.entropy * unsure) / c.batch

    @torch.no_grad()
    def decode(self, z):
        best = self.gate(z).argmax(1)
        return torch.cat([self.experts[best[b]](z[b : b + 1]) for b in range(len(z))])

    @torch.no_grad()
    def evaluate(self, loader):
        total, count = 0.0, 0
        for x, _ in loader:
            _, _, z = self.codes(x)
            image = self.decode(z)
            total, count = total + F.mse_loss(image, x, reduction="sum").item(), count + len(x)
        return total / count


def published(c, d, test):
    from benchmarks.training import OneByOne

    m = Published(smoe_vae.model_of(c, d))
    opt = torch.optim.Adam(m.parameters(), c.lr)
    loader = DataLoader(OneByOne(d), c.batch, shuffle=True)

    def steps(n):
        m.train()
        batches = iter(loader)
        for _ in range(n):
            if (x := next(batches, None)) is None:
                batches = iter(loader)
                x = next(batches)
            opt.zero_grad()
            loss = m.loss(x[0])
            loss.backward()
            opt.step()
            loss.item()

    return steps, lambda: m.eval().evaluate(DataLoader(OneByOne(test), c.batch)), lambda: m.eval().decode(codes(c, len(test)))


def ours(c, d, test):
    "`fit`, called again and again for more steps: it goes on with the same model and optimizer."
    m = smoe_vae.model_of(c, d)
    opts = [training.adam(list(m.parameters()), c.lr)]
    m.optimizers = lambda config: opts
    done = [0]

    def steps(n):
        done[0] += 1
        training.fit(m, d, replace(c, steps=n, seed=c.seed + done[0]), progress=False)

    @torch.no_grad()
    def decode():
        return [m.eval().decode(z) for z in codes(c, len(test)).split(500)]

    return steps, lambda: float(smoe_vae.view(m, test, seed=0)["hard"].mean()), decode


def codes(c, n):
    return torch.randn(n, c.latent, generator=torch.Generator().manual_seed(0))


def serve(pipe, threads, build, c, d, test):
    torch.set_num_threads(threads)
    steps, *others = build(c, d, test)
    calls = dict(zip(("evaluate", "decode"), others))
    pipe.send("ready")
    while order := pipe.recv():
        found = []
        wall = seconds(lambda: found.append(steps(order) if isinstance(order, int) else calls[order]()))
        pipe.send((wall, found[0]))


def race(K, d, test, threads, epochs, slices, skip, layout):
    "Train both sides through the epochs; time slices; evaluate."
    c = SMoEVAEConfig(data=d.name, num_experts=K, encoder="medium", device="cpu", skip=skip, channels_last=layout)
    per_epoch = -(-len(d) // c.batch)
    context, pipes, times = multiprocessing.get_context("spawn"), {}, {"published": {}, "genmix": {}}
    with ExitStack() as stack:
        for name, build in (("published", published), ("genmix", ours)):
            pipes[name], theirs = context.Pipe()
            p = context.Process(target=serve, args=(theirs, threads, build, c, d, test))
            p.start()
            theirs.close()
            stack.callback(p.join)
            stack.callback(pipes[name].close)
            pipes[name].recv()

        def ask(name, order):
            pipes[name].send(order)
            return pipes[name].recv()

        at = 0
        for name in pipes:
            ask(name, 2)  # warm
        for epoch in epochs:
            if epoch > at:
                ask("genmix", (epoch - at) * per_epoch)
            at = epoch
            rounds = {name: [] for name in pipes}
            for k in range(5):
                for name in list(pipes)[:: -1 if k % 2 else 1]:
                    rounds[name].append(ask(name, slices)[0] / slices)
            for name in pipes:
                times[name][epoch] = float(np.median(rounds[name]))
            print(f"K={K} epoch {epoch:2}: " + ", ".join(f"{n} {1000 * t[epoch]:.0f} ms/step" for n, t in times.items())
                  + f", ratio {times['published'][epoch] / times['genmix'][epoch]:.2f}", flush=True)
        ends = {"published": [], "genmix": []}
        for k in range(5):
            for name in list(pipes)[:: -1 if k % 2 else 1]:
                ends[name].append((ask(name, "evaluate")[0], ask(name, "decode")[0]))
        for name in pipes:
            pipes[name].send(0)
    x = np.array([0, *epochs, 20.0])
    total = {n: float(np.trapezoid([t[epochs[0]], *t.values(), t[epochs[-1]]], x) * per_epoch) for n, t in times.items()}
    def ratio(j):
        return round(float(np.median([a[j] / b[j] for a, b in zip(ends["published"], ends["genmix"])])), 2)

    return {"K": K, "ms_per_step": {n: {e: round(1000 * v, 1) for e, v in t.items()} for n, t in times.items()},
            "seconds_of_20_epochs": {n: round(v, 1) for n, v in total.items()}, "training": round(total["published"] / total["genmix"], 2),
            "evaluation": ratio(0), "decoding": ratio(1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist" if os.environ.get("GENMIX_DATA") else "doodles")
    parser.add_argument("--images", type=int, default=6_400)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--experts", type=int, nargs="+", default=[5, 50])
    parser.add_argument("--epochs", type=int, nargs="+", default=list(EPOCHS))
    parser.add_argument("--slice", type=int, default=4, help="steps that are timed at once")
    parser.add_argument("--skip", type=float, default=0.01)
    parser.add_argument("--channels-last", action="store_true", help="our side with channels last")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    threads = int(os.environ["OMP_NUM_THREADS"])
    d, test = load(a.data, "train", n=a.images), load(a.data, "test", n=a.test)
    d, test = (replace(v, x=np.ascontiguousarray(v.x[:]), y=np.asarray(v.y)) for v in (d, test))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}"
    print(f"{d.describe()}\n{machine}", flush=True)
    start, rows = time.time(), []
    for K in a.experts:
        rows.append(race(K, d, test, threads, a.epochs, a.slice, a.skip, a.channels_last))
        print(json.dumps(rows[-1]), flush=True)
    if a.json:
        about = {"data": d.describe(), "genmix": __version__, "machine": machine, "skip": a.skip, "seconds": round(time.time() - start)}
        a.json.write_text(json.dumps({"provenance": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
