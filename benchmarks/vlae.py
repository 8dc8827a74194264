"""Chapter 06: training the two-level model, and drawing digits, each against the plain way.

    OMP_NUM_THREADS=2 python -m benchmarks.vlae
        [--data mnist] [--rounds 7] [--images 3200] [--json FILE]

Training: the earlier two-level model at its settings (batch 128, Adam .001, gray pixels), by `fit`
and by the loop of most tutorials, torchvision's MNIST class read one image at a time by a shuffling
DataLoader, in the training process or with two workers; the same networks on both sides. Drawing:
100 digits with a window of 11 x 6, wave by wave, and by one pass through the network for every
pixel. Every candidate has a process of its own and is warm before it is measured; in each round
every one is measured once, in an order that alternates; the ratio of the times is taken within the
round, and the median of the ratios is printed, with the least and the largest.
"""

import argparse
import json
import os
import platform
from dataclasses import replace
from pathlib import Path

from benchmarks.common import compared, measure  # first: it sets the number of threads

import numpy as np
import torch
from benchmarks.training import OneByOne, usual_loop
from torch.utils.data import DataLoader

from genmix import training, vlae
from genmix.configs import NAMED
from genmix.data import load


def with_loader(c, d, workers=0):
    model = vlae.model_of(c, d)
    opt = torch.optim.Adam(model.parameters(), c.lr)
    loader = DataLoader(
        OneByOne(d), c.batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: usual_loop(model, opt, loader)


def fitted(c, d, **settings):
    c, model = replace(c, **settings), vlae.model_of(c, d)
    return lambda: training.fit(model, d, c, progress=False).loss.iloc[-1]


def drawn(c, d, digits=100, plainly=False):
    "Digits [digits, 1, 28, 28], returned as their mean; the same digits either way."
    torch.manual_seed(0)
    model = vlae.model_of(replace(NAMED["mnist"], seed=0), d).eval()
    m, u = model.outputs(torch.randn(digits, model.latent)).detach(), torch.rand(digits, 28, 28)

    def plain():
        x = torch.zeros(digits, 1, 28, 28)
        with torch.no_grad():
            for r in range(28):
                for c in range(28):
                    x[:, 0, r, c] = (
                        u[:, r, c] < model.likelihood.predict(x, m)[:, 0, r, c].sigmoid()
                    ).float()
        return x.mean().item()

    return plain if plainly else lambda: model.likelihood.net.sample(m, u).mean().item()


LOADERS = {"loader": (with_loader, {}), "loader, 2 workers": (with_loader, {"workers": 2})}


def measured(pairs=5, budget=0.0, quick=False, digits=16):
    """What is compared -> its ratios: drawing only.

    Training is compared with the loaders on its own, and by the benchmark of chapter 02a.
    """
    threads, few, small = (
        int(os.environ["OMP_NUM_THREADS"]),
        2 if quick else digits,
        load("digits", "train", n=10),
    )
    assert abs(drawn(None, small, 1)() - drawn(None, small, 1, plainly=True)()) < 1e-6, (
        "both ways should draw the same digit"
    )
    ways = {k: (drawn, {"digits": few, "plainly": k == "plain"}) for k in ("plain", "waves")}
    m = measure(ways, (None, small), pairs, threads, warm=1, budget=budget)
    yield (
        "drawing, waves against a pass per pixel",
        compared(m["plain"]["wall"], m["waves"]["wall"]),
    )


def measured_training(c, d, rounds, threads):
    m = measure(
        {**LOADERS, "fit": (fitted, {}), "fit, bf16": (fitted, {"precision": "bf16"})},
        (c, d),
        rounds,
        threads,
    )
    for way in ("fit", "fit, bf16"):
        for k in LOADERS:
            yield f"{way}{',' * (way != 'fit')} against {k}", compared(m[k]["wall"], m[way]["wall"])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        default="mnist" if os.environ.get("GENMIX_DATA") else "doodles",
        help="28x28 images, such as mnist, digits or doodles",
    )
    parser.add_argument("--images", type=int, default=3200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--draws",
        type=int,
        default=5,
        help="rounds of drawing; the plain way takes about half a minute in each",
    )
    parser.add_argument("--json", type=Path, help="write the results to this file as well")
    a = parser.parse_args()
    threads = int(os.environ["OMP_NUM_THREADS"])
    d = load(a.data, "train", n=a.images)
    d = replace(d, x=np.ascontiguousarray(d.x[:]), y=np.asarray(d.y))
    c = replace(NAMED["earlier-two-level"], epochs=1, warmup=0)
    print(
        f"{d.describe()}\n{platform.machine()}, {os.cpu_count()} cores, {threads} threads, torch "
        f"{torch.__version__}; load {os.getloadavg()[0]:.1f}"
    )
    found = dict(measured_training(c, d, a.rounds, threads)) | dict(measured(a.draws, digits=100))
    for what, r in found.items():
        print(f"{what:45} {r['median']:8.2f} ({r['least']:.2f}-{r['largest']:.2f})")
    print(f"100 digits take {r['fast']:.2f} s in waves, {r['slow']:.1f} s by a pass per pixel")
    if a.json:
        a.json.write_text(
            json.dumps({"threads": threads, "rounds": a.rounds, "ratios": found}, indent=1)
        )


if __name__ == "__main__":
    main()
