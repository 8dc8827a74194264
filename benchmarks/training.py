"""Chapter 02a: training with `fit` against the loop of most tutorials, and what each option of
`fit` is worth.

    OMP_NUM_THREADS=2 python -m benchmarks.training
        [--data mnist] [--rounds 7] [--images 3200] [--nets conv:32 residual:16] [--json FILE]

The baseline: torchvision's own MNIST class (one image at a time: `Image.fromarray`, then
`ToTensor`), a DataLoader that shuffles, in the training process or with two workers (kept alive
between epochs, which favors them), and the usual loop with Adam and `loss.item()`. The same VAE,
batch size, Adam and images on both sides. Every candidate lives in a process of its own, because
how an allocator treats freed memory depends on what the process did before; it is warm before it is
measured, and a measurement is one pass over the images. In each round every candidate is measured
once, in an order that alternates; the ratio of the times is taken within the round, and the median
of the ratios is printed, with the least and the largest. The faster of the two baselines is the one
that counts.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.common import (
    compared,
    in_turns,
    measure,
    official,
    ratios,
)  # first: it sets the number of threads

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from genmix import __version__, training
from genmix.configs import VAEConfig
from genmix.data import load
from genmix.vae import vae_of


class OneByOne(MNIST):
    "torchvision's MNIST with images that are given: what happens for every image is torchvision's."

    def __init__(self, d):
        self.data, self.targets = (
            torch.from_numpy(d.x[:, 0]),
            torch.from_numpy(np.asarray(d.y, np.int64)),
        )
        self.transform, self.target_transform = ToTensor(), None


class PlainNoise:
    "Torch's own random numbers, as a tutorial uses them."

    def normal(self, *shape, dim=0):
        return torch.randn(*shape)

    def uniform(self, *shape, dim=0):
        return torch.rand(*shape)


def usual_loop(model, opt, batches):
    "The loop of a tutorial; returns the mean loss."
    model.train()
    total, count, noise = 0.0, 0, PlainNoise()
    for step, (x, y) in enumerate(batches):
        opt.zero_grad()
        loss = model.loss(training.Batch(x, y, y), step, noise)["loss"]
        loss.backward()
        opt.step()
        total, count = total + loss.item() * len(x), count + len(x)
    return total / count


def with_loader(c, d, workers=0):
    model = vae_of(c, d.x.shape[1:])
    opt = torch.optim.Adam(model.parameters(), c.lr)
    loader = DataLoader(
        OneByOne(d), c.batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: usual_loop(model, opt, loader)


def resident(c, d):
    "The usual loop, but on images that lie in memory as one tensor: the least that one can do."
    model = vae_of(c, d.x.shape[1:])
    opt, x, y = (
        torch.optim.Adam(model.parameters(), c.lr),
        torch.from_numpy(d.x),
        torch.from_numpy(np.asarray(d.y, np.int64)),
    )
    return lambda: usual_loop(
        model, opt, ((x[i].float().div_(255), y[i]) for i in torch.randperm(len(x)).split(c.batch))
    )


def fitted(c, d, keep=True, fused=True, chunks=False, **settings):
    """`fit`, as it is or with one thing changed.

    The process is this candidate's own, so what is changed stays changed.
    """
    c, model = replace(c, **settings), vae_of(c, d.x.shape[1:])
    if not keep:
        training.keep_memory = lambda: False
    if not fused:
        model.optimizers = lambda config: [torch.optim.Adam(model.parameters(), config.lr)]
    if chunks:
        path = Path(chunks) / "images.npy"
        np.save(path, d.x)
        d = replace(d, x=np.load(path, mmap_mode="r"))
        training.Rows = partial(
            training.Rows, limit=0, chunk=2**20
        )  # 1 MB at a time: several chunks in every pass
    return lambda: training.fit(model, d, c, progress=False).loss.iloc[-1]


BASELINES = {"loader": (with_loader, {}), "loader, 2 workers": (with_loader, {"workers": 2})}


def figures(c, d):
    "What every row says about its network."
    return {
        "net": c.net,
        "width": c.width,
        "batch": c.batch,
        "weights": sum(p.numel() for p in vae_of(c, d.x.shape[1:]).parameters()),
    }


def better(m):
    "The faster of the two baselines."
    return min(BASELINES, key=lambda k: statistics.median(m[k]["wall"]))


def against_loaders(c, d, rounds, threads):
    m = measure(
        {**BASELINES, "fit": (fitted, {}), "fit, bf16": (fitted, {"precision": "bf16"})},
        (c, d),
        rounds,
        threads,
    )
    speed, baseline = (
        {k: round(len(d) / statistics.median(v["wall"])) for k, v in m.items()},
        better(m),
    )
    return {
        **figures(c, d),
        "images_per_s": speed,
        "baseline": baseline,
        "ratio": ratios(m[baseline]["wall"], m["fit"]["wall"]),
        "ratio_bf16": ratios(m[baseline]["wall"], m["fit, bf16"]["wall"]),
        "ratio_loader": ratios(m["loader"]["wall"], m["fit"]["wall"]),
        "ratio_2_workers": ratios(m["loader, 2 workers"]["wall"], m["fit"]["wall"]),
        "ratio_cpu_loader": ratios(m["loader"]["cpu"], m["fit"]["cpu"]),
    }


def against_fit(c, d, rounds, threads, folder, compiled):
    candidates = {
        "fit": (fitted, {}),
        "a plain loop, images in memory": (resident, {}),
        "memory given back": (fitted, {"keep": False}),
        "Adam not fused": (fitted, {"fused": False}),
        "images read in chunks from a file": (fitted, {"chunks": folder}),
        "channels_last": (fitted, {"channels_last": True}),
        "bf16": (fitted, {"precision": "bf16"}),
        "bf16 and channels_last": (fitted, {"precision": "bf16", "channels_last": True}),
        "ema 0.999": (fitted, {"ema": 0.999}),
        "clip": (fitted, {"clip": 100.0}),
    }
    if compiled:
        candidates["compile"] = (fitted, {"compile": True})
    m = measure(candidates, (c, d), rounds, threads)
    steps = -(-len(d) // c.batch)
    return [
        {
            **figures(c, d),
            "what": k,
            "images_per_s": round(len(d) / statistics.median(v["wall"])),
            "speed_against_fit": ratios(m["fit"]["wall"], v["wall"]),
            "speed_against_fit_cpu": ratios(m["fit"]["cpu"], v["cpu"]),
            "faults_per_step": round(statistics.median(v["faults"]) / steps, 1),
        }
        for k, v in m.items()
    ]


def measured(pairs=5, budget=0.0, quick=False, images=1280):
    """What is compared -> its ratios, one after the other: the slice of this benchmark that the
    chapter's sentences are about, on MNIST."""

    def seeds(seed):
        return lambda: [seed(k) for k in range(500)]

    cpu, threads = torch.device("cpu"), int(os.environ["OMP_NUM_THREADS"])
    yield (
        "seeding one generator",
        in_turns(
            seeds(torch.manual_seed),
            seeds(lambda k: training._reseed(k, cpu)),
            pairs,
            budget / 50,
            items=(500, 500),
        ),
    )
    d = official("mnist", "train", 256 if quick else images)
    for net, width, batch in (("conv", 32, 128), ("bottleneck", 32, 64), ("residual", 16, 128))[
        : 1 if quick else 3
    ]:
        c = VAEConfig(data="mnist", net=net, width=width, batch=batch, epochs=1, device="cpu")
        ours = (
            {"fit, bf16": (fitted, {"precision": "bf16"})}
            if net == "residual"
            else {"fit": (fitted, {})}
        )
        given_back = {"memory given back": (fitted, {"keep": False})} if net == "conv" else {}
        m = measure({**BASELINES, **ours, **given_back}, (c, d), pairs, threads, budget=budget / 4)
        for k in ours:
            yield (
                f"{net}, batch {batch}, {k}",
                {**compared(m[better(m)]["wall"], m[k]["wall"]), "baseline": better(m)},
            )
        for k in given_back:
            yield f"{net}, batch {batch}, {k}", compared(m[k]["wall"], m["fit"]["wall"])


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
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128])
    parser.add_argument(
        "--nets",
        nargs="+",
        default=["conv:32", "bottleneck:32", "residual:16"],
        help="networks and their widths; residual:16 is that of the paper preset",
    )
    parser.add_argument("--no-options", action="store_true", help="only fit against the loaders")
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="do not try torch.compile, which takes a minute to begin with",
    )
    parser.add_argument("--json", type=Path, help="write the results to this file as well")
    a = parser.parse_args()
    threads = int(os.environ["OMP_NUM_THREADS"])
    d = load(a.data, "train", n=a.images)
    d = replace(d, x=np.ascontiguousarray(d.x[:]), y=np.asarray(d.y))
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads, torch "
        f"{torch.__version__}, numpy {np.__version__}"
    )
    print(f"{d.describe()}\n{machine}; load {load_before}")
    print(
        f"{a.rounds} interleaved rounds of one pass over {len(d):,} images; medians of the ratios "
        "(least-largest)"
    )
    rows, options = [], []
    nets = [(net, int(width or 32)) for net, _, width in (n.partition(":") for n in a.nets)]
    for net, width in nets:
        for batch in a.batches:
            c = VAEConfig(data=a.data, net=net, width=width, batch=batch, epochs=1, device="cpu")
            r = against_loaders(c, d, a.rounds, threads)
            rows.append(r)
            print(
                f"{net:10} batch {batch:3}: "
                + ", ".join(f"{k} {v:,}/s" for k, v in r["images_per_s"].items())
                + f"; fit is {r['ratio']['median']:.2f}x ({r['ratio']['least']:.2f}-"
                f"{r['ratio']['largest']:.2f}) as fast as the better baseline "
                f"({r['baseline']}), with bf16 {r['ratio_bf16']['median']:.2f}x; processor time "
                f"{r['ratio_cpu_loader']['median']:.2f}x",
                flush=True,
            )
    for net, width in () if a.no_options else nets:
        c = VAEConfig(data=a.data, net=net, width=width, batch=a.batches[0], epochs=1, device="cpu")
        compiled = not a.no_compile and any(map(shutil.which, ("c++", "g++", "clang++")))
        with tempfile.TemporaryDirectory() as folder:
            for r in against_fit(c, d, a.rounds, threads, folder, compiled):
                options.append(r)
                w, p = r["speed_against_fit"], r["speed_against_fit_cpu"]
                print(
                    f"{net:10} batch {c.batch:3}, {r['what']:34}: {r['images_per_s']:6,}/s, "
                    f"{w['median']:.2f}x ({w['least']:.2f}-{w['largest']:.2f}) "
                    f"the speed of fit; by processor time {p['median']:.2f}x; "
                    f"{r['faults_per_step']:,.0f} page faults a step",
                    flush=True,
                )
    if a.json:
        load_after = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        provenance = {
            "data": d.describe(),
            "genmix": __version__,
            "machine": machine,
            "load": [load_before, load_after],
            "rounds": a.rounds,
            "images": len(d),
            "what": "images trained on per second; ratios within interleaved rounds",
            "goal": "fit at least 1.5 times the better baseline",
            "command": f"OMP_NUM_THREADS={threads} python -m benchmarks.training --data {a.data} "
            f"--images {a.images} "
            f"--rounds {a.rounds} --nets {' '.join(a.nets)} --json FILE",
        }
        part = a.json.with_name(a.json.name + ".part")
        part.write_text(
            json.dumps({"provenance": provenance, "rows": rows, "options": options}, indent=1)
            + "\n",
            encoding="utf-8",
        )
        os.replace(part, a.json)


if __name__ == "__main__":
    main()
