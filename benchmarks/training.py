"""Chapter 02a: training with `fit` against the loop of most tutorials, and what each option of `fit` is worth.

    OMP_NUM_THREADS=2 python -m benchmarks.training [--data mnist] [--rounds 7] [--images 3200] [--nets conv bottleneck] [--json FILE]

The baseline: a data set in the manner of torchvision's MNIST (`Image.fromarray`, then `ToTensor`, one image at a time), a DataLoader
that shuffles, in this process or with two workers (kept alive between epochs, which favors them), and the usual loop with Adam and
`loss.item()`. The same VAE, batch size, Adam and images on both sides; every measurement is one pass over the images by a model that is
warm already. In each round every candidate is measured once, in an order that alternates; the ratio of the times is taken within the
round, and the median of the ratios is printed, with the least and the largest. On a machine that does other things as well, ratios of
wall time scatter; processor time is given where one process does all the work. The faster of the two baselines is the one that counts.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.common import seconds  # first: it sets the number of threads

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

from genmix import __version__, training
from genmix.configs import VAEConfig
from genmix.data import load
from genmix.vae import vae_of

OPTIONS = {"channels_last": dict(channels_last=True), "bf16": dict(precision="bf16"), "ema": dict(ema=0.999), "clip": dict(clip=100.0)}


class OneByOne(Dataset):
    "What torchvision's MNIST does for every image."

    def __init__(self, d):
        self.x, self.y, self.transform = d.x[:, 0], d.y, ToTensor()

    def __len__(self):
        return len(self.y)

    def __getitem__(self, k):
        return self.transform(Image.fromarray(self.x[k])), int(self.y[k])


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


def with_loader(c, d, workers):
    model = vae_of(c, d.x.shape[1:])
    opt = torch.optim.Adam(model.parameters(), c.lr)
    loader = DataLoader(OneByOne(d), c.batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda: usual_loop(model, opt, loader)


def resident(c, d):
    "The usual loop, but on images that lie in memory as one tensor: the least that one can do."
    model = vae_of(c, d.x.shape[1:])
    opt, x, y = torch.optim.Adam(model.parameters(), c.lr), torch.from_numpy(d.x), torch.from_numpy(np.asarray(d.y, np.int64))
    return lambda: usual_loop(model, opt, ((x[i].float().div_(255), y[i]) for i in torch.randperm(len(x)).split(c.batch)))


def fitted(c, d, fused=False, chunks=False):
    model = vae_of(c, d.x.shape[1:])
    if fused:
        model.optimizers = lambda config: [torch.optim.Adam(model.parameters(), config.lr, fused=True)]

    def run():
        usual = training.Rows
        if chunks:
            training.Rows = partial(usual, limit=0, chunk=2**20)  # 1 MB at a time: several chunks in every pass
        try:
            return training.fit(model, d, c, progress=False).loss.iloc[-1]
        finally:
            training.Rows = usual

    return run


def measure(candidates, rounds):
    "Wall and processor seconds of every candidate, in every round."
    wall, cpu = ({name: [] for name in candidates} for _ in range(2))
    for f in candidates.values():
        if not np.isfinite(f()):
            raise SystemExit("a loss is not finite: nothing is worth measuring")
    for k in range(rounds):
        for name in list(candidates)[:: -1 if k % 2 else 1]:
            before = time.process_time()
            wall[name].append(seconds(candidates[name]))
            cpu[name].append(time.process_time() - before)
    return wall, cpu


def ratios(slow, fast):
    r = [s / f for s, f in zip(slow, fast, strict=True)]
    return {"median": round(statistics.median(r), 3), "least": round(min(r), 3), "largest": round(max(r), 3)}


def against_loaders(c, d, rounds):
    wall, cpu = measure({"loader": with_loader(c, d, 0), "loader, 2 workers": with_loader(c, d, 2), "fit": fitted(c, d)}, rounds)
    speed = {k: round(len(d) / statistics.median(v)) for k, v in wall.items()}
    baseline = max((k for k in speed if k != "fit"), key=speed.get)
    return {"net": c.net, "batch": c.batch, "images_per_s": speed, "baseline": baseline, "ratio": ratios(wall[baseline], wall["fit"]),
            "ratio_loader": ratios(wall["loader"], wall["fit"]), "ratio_2_workers": ratios(wall["loader, 2 workers"], wall["fit"]),
            "ratio_cpu_loader": ratios(cpu["loader"], cpu["fit"])}


def against_plain(c, d, rounds, folder, compiled):
    path = Path(folder) / "images.npy"
    np.save(path, d.x)
    on_disk = replace(d, x=np.load(path, mmap_mode="r"))
    candidates = {"fit": fitted(c, d), "plain loop, images in memory": resident(c, d), "chunks from a file": fitted(c, on_disk, chunks=True),
                  "fused Adam": fitted(c, d, fused=True), **{k: fitted(replace(c, **v), d) for k, v in OPTIONS.items()}}
    if compiled:
        candidates["compile"] = fitted(replace(c, compile=True), d)
    wall, cpu = measure(candidates, rounds)
    return [{"net": c.net, "batch": c.batch, "what": k, "images_per_s": round(len(d) / statistics.median(wall[k])),
             "speed_against_fit": ratios(wall["fit"], wall[k]), "speed_against_fit_cpu": ratios(cpu["fit"], cpu[k])} for k in candidates if k != "fit"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist" if os.environ.get("GENMIX_DATA") else "doodles", help="28x28 images, such as mnist, digits or doodles")
    parser.add_argument("--images", type=int, default=3200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--nets", nargs="+", default=["conv", "bottleneck"])
    parser.add_argument("--no-options", action="store_true", help="only fit against the loaders")
    parser.add_argument("--no-compile", action="store_true", help="do not try torch.compile, which takes a minute to begin with")
    parser.add_argument("--json", type=Path, help="write the results to this file as well")
    a = parser.parse_args()
    threads = int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    d = load(a.data, "train", n=a.images)
    d = replace(d, x=np.ascontiguousarray(d.x[:]))
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}, numpy {np.__version__}"
    print(f"{d.describe()}\n{machine}; load {load_before}")
    print(f"{a.rounds} interleaved rounds of one pass over {len(d):,} images; medians of the ratios (least-largest)")
    rows, options = [], []
    for net in a.nets:
        for batch in a.batches:
            c = VAEConfig(data=a.data, net=net, batch=batch, epochs=1, device="cpu")
            r = against_loaders(c, d, a.rounds)
            rows.append(r)
            print(f"{net:10} batch {batch:3}: " + ", ".join(f"{k} {v:,}/s" for k, v in r["images_per_s"].items())
                  + f"; fit is {r['ratio']['median']:.2f}x ({r['ratio']['least']:.2f}-{r['ratio']['largest']:.2f}) as fast as the better baseline "
                  f"({r['baseline']}); processor time {r['ratio_cpu_loader']['median']:.2f}x", flush=True)
    for net in () if a.no_options else a.nets:
        c = VAEConfig(data=a.data, net=net, batch=a.batches[0], epochs=1, device="cpu")
        compiled = not a.no_compile and any(map(shutil.which, ("c++", "g++", "clang++")))
        with tempfile.TemporaryDirectory() as folder:
            for r in against_plain(c, d, a.rounds, folder, compiled):
                options.append(r)
                w, p = r["speed_against_fit"], r["speed_against_fit_cpu"]
                print(f"{net:10} batch {c.batch:3}, {r['what']:28}: {r['images_per_s']:6,}/s, {w['median']:.2f}x ({w['least']:.2f}-{w['largest']:.2f}) "
                      f"the speed of fit; by processor time {p['median']:.2f}x", flush=True)
    if a.json:
        load_after = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        provenance = {"data": d.describe(), "genmix": __version__, "machine": machine, "load": [load_before, load_after], "rounds": a.rounds,
                      "images": len(d), "what": "images trained on per second; ratios within interleaved rounds",
                      "goal": "fit at least 1.5 times the better baseline",
                      "command": f"OMP_NUM_THREADS={threads} python -m benchmarks.training --data {a.data} --images {a.images} --rounds {a.rounds} --json FILE"}
        part = a.json.with_name(a.json.name + ".part")
        part.write_text(json.dumps({"provenance": provenance, "rows": rows, "options": options}, indent=1) + "\n", encoding="utf-8")
        os.replace(part, a.json)


if __name__ == "__main__":
    main()
