"""Chapter 04: training and evaluating a mixture of decoder experts, against the structure of the
published code.

    OMP_NUM_THREADS=2 python -m benchmarks.smoe_vae [--data mnist] [--experts 5 50] \\
        [--images 12800] [--json FILE]

The baseline is written as the published code is: a ModuleList of experts that all draw every image
in training, doubling and convolution as two steps, a DataLoader over PIL images (torchvision's
MNIST class), Adam, `loss.item()` in every step, and an evaluation that calls the chosen expert
image by image. The same images, batch size, weights to begin with, loss (equation 4.4) and Adam on
both sides.

How much `skip` saves depends on how far the gate has made up its mind, so our side is trained on,
and both are timed in slices of steps at the epochs 1, 2, 4, 8 and 16 (interleaved, an own process
per side; what a step of the published structure costs does not depend on the gate). The time of 20
epochs is the integral over these slices by the trapezoidal rule. At the end both evaluate the same
images, and decode the same codes by one expert each.
"""

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.common import at_work, compared, official  # first: it sets the number of threads

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
    "The published structure: modules for all, loops over experts and, in evaluation, images."

    def __init__(self, m):
        super().__init__()
        self.config, self.encoder, self.gate = m.config, m.encoder, m.gate
        self.experts = nn.ModuleList(self.expert(m.experts, k) for k in range(m.experts.K))

    @staticmethod
    def expert(e, k):
        m = nn.Sequential(
            nn.Linear(e.latent, 8 * 49),
            nn.Unflatten(1, (8, 7, 7)),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ELU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(16, 1, 3, padding=1),
            nn.Sigmoid(),
        )
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
        return (
            F.mse_loss(image, x, reduction="sum")
            + c.beta * kl
            + c.balance * uneven
            + c.entropy * unsure
        ) / c.batch

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

    return obey(
        steps,
        lambda: m.eval().evaluate(DataLoader(OneByOne(test), c.batch)),
        lambda: m.eval().decode(codes(c, len(test))),
    )


def obey(steps, evaluate, decode):
    "What a process does when it is asked: that many steps, or one of the two others."

    def run(order=2):
        {"evaluate": evaluate, "decode": decode}[order]() if isinstance(order, str) else steps(
            order
        )
        return 0.0

    return run


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

    return obey(steps, lambda: float(smoe_vae.view(m, test, seed=0)["hard"].mean()), decode)


def codes(c, n):
    return torch.randn(n, c.latent, generator=torch.Generator().manual_seed(0))


def race(K, d, test, threads, epochs, slices, skip, layout, rounds=5):
    """Train both sides through the epochs; time slices; evaluate.

    -> seconds per step [rounds] for every side and epoch, and of the two others [rounds].
    """
    c = SMoEVAEConfig(
        data=d.name, num_experts=K, encoder="medium", device="cpu", skip=skip, channels_last=layout
    )
    sides, per_epoch, at = ("published", "genmix"), -(-len(d) // c.batch), 0
    times, ends = {n: {} for n in sides}, {n: {"evaluate": [], "decode": []} for n in sides}
    with at_work(
        dict(zip(sides, ((published, {}), (ours, {})))), (c, d, test), threads, warm=1
    ) as ask:
        for epoch in epochs:
            if epoch > at:
                ask("genmix", (epoch - at) * per_epoch)
            at = epoch
            for k in range(rounds):
                for name in sides[:: -1 if k % 2 else 1]:
                    times[name].setdefault(epoch, []).append(ask(name, slices)[0] / slices)
        for k in range(rounds):
            for name in sides[:: -1 if k % 2 else 1]:
                for order, found in ends[name].items():
                    found.append(ask(name, order)[0])
    return times, ends, per_epoch


def whole(t, per_epoch):
    "Seconds of 20 epochs by the trapezoidal rule; t: epoch -> seconds per step."
    epochs = list(t)
    return float(
        np.trapezoid([t[epochs[0]], *t.values(), t[epochs[-1]]], [0, *epochs, 20.0]) * per_epoch
    )


def compare(K, times, ends, per_epoch):
    "What is compared -> its ratios."
    first, last = min(times["genmix"]), max(times["genmix"])
    total = {
        n: [whole(dict(zip(t, row)), per_epoch) for row in zip(*t.values())]
        for n, t in times.items()
    }
    pairs = {
        "training" if last >= 16 else f"training, from {last} epochs": total,
        f"step at epoch {first}": {n: t[first] for n, t in times.items()},
        f"step at epoch {last}": {n: t[last] for n, t in times.items()},
        "evaluation": {n: e["evaluate"] for n, e in ends.items()},
        "decoding": {n: e["decode"] for n, e in ends.items()},
    }
    return {f"K = {K}, {what}": compared(p["published"], p["genmix"]) for what, p in pairs.items()}


def row(K, times, ends, per_epoch):
    "One row of the published table."
    middle = {n: {e: float(np.median(v)) for e, v in t.items()} for n, t in times.items()}
    total, found = (
        {n: whole(t, per_epoch) for n, t in middle.items()},
        compare(K, times, ends, per_epoch),
    )
    return {
        "K": K,
        "ms_per_step": {
            n: {e: round(1000 * v, 1) for e, v in t.items()} for n, t in middle.items()
        },
        "seconds_of_20_epochs": {n: round(v, 1) for n, v in total.items()},
        "training": round(total["published"] / total["genmix"], 2),
        "evaluation": round(found[f"K = {K}, evaluation"]["median"], 2),
        "decoding": round(found[f"K = {K}, decoding"]["median"], 2),
    }


def measured(pairs=5, budget=240.0, quick=False):
    """What is compared -> its ratios: the same on fewer epochs.

    These are as many as the budget is good for. The experts that the gate rules out, and with them
    the time of a step, become fewer as training goes on.
    """
    d, test = (
        official("mnist", "train", 256 if quick else 6_400),
        official("mnist", "test", 64 if quick else 500),
    )
    epochs, slices = ((1,), 1) if quick else ((1, 4, 16), 2) if budget >= 150 else ((1, 2), 1)
    for K in (5,) if quick else (5, 50):
        yield from compare(
            K,
            *race(
                K, d, test, int(os.environ["OMP_NUM_THREADS"]), epochs, slices, 0.01, True, pairs
            ),
        ).items()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    cores, version = os.cpu_count(), torch.__version__
    machine = f"{platform.machine()}, {cores} cores, {threads} threads, torch {version}"
    print(f"{d.describe()}\n{machine}", flush=True)
    start, rows = time.time(), []
    for K in a.experts:
        rows.append(row(K, *race(K, d, test, threads, a.epochs, a.slice, a.skip, a.channels_last)))
        print(json.dumps(rows[-1]), flush=True)
    if a.json:
        about = {
            "data": d.describe(),
            "genmix": __version__,
            "machine": machine,
            "skip": a.skip,
            "seconds": round(time.time() - start),
        }
        a.json.write_text(
            json.dumps({"provenance": about, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
