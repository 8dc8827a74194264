"""Chapter 00h: sprites drawn in batches against one polygon after another, and random batches from
the cache.

    OMP_NUM_THREADS=1 python -m benchmarks.worlds_sprites [--pairs 7] [--batch 256] [--no-cache]

Drawing: `genmix.worlds.sprites.render` on random batches against Pillow's ImageDraw.polygon and
against matplotlib's Path.contains_points, both one image at a time on the same corners. The share
of images that they draw exactly as we do is printed: Pillow fills polygons by another rule, and
matplotlib has its own way with centers on an edge. Reading: random batches from the packed file of
all 737,280 images (377 MB, built in a temporary folder) against an array of bytes in memory, as one
gets from the official .npz (here of 50,000 images). A and B alternate, the ratio of each pair is
taken, and the median of the ratios is printed. The file is read from the operating system's memory,
as after the first epoch.
"""

import argparse
import os
import platform
import tempfile
from unittest.mock import patch

from benchmarks.common import in_turns  # first: it sets the number of threads

import numpy as np
from matplotlib.path import Path
from PIL import Image, ImageDraw

from genmix.worlds import sprites
from genmix.worlds.sprites import N

CENTERS = np.stack(np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5), axis=-1).reshape(-1, 2)


def outlines(index):
    "The corners in pixels, image after image."
    out = [None] * len(index)
    for s in range(3):
        mine = np.flatnonzero(index // (N // 3) == s)
        for k, P in zip(mine, sprites.corners(index[mine]) / 256 if len(mine) else (), strict=True):
            out[k] = P
    return out


def pillow(index):
    x = np.empty((len(index), 1, 64, 64), np.uint8)
    for k, P in enumerate(outlines(index)):
        image = Image.new("L", (64, 64))
        ImageDraw.Draw(image).polygon([tuple(p) for p in P - 0.5], fill=255)
        x[k, 0] = image
    return x


def contains_points(index):
    x = np.empty((len(index), 1, 64, 64), np.uint8)
    for k, P in enumerate(outlines(index)):
        x[k, 0] = 255 * Path(P).contains_points(CENTERS).reshape(64, 64)
    return x


def against(ours, theirs, batch, rng, pairs, budget, count, fewer=1):
    "Random batches for both sides; `fewer`: the slow side gets this part of them."
    few = count // fewer

    def draw():
        return ([rng.integers(0, N, batch) for _ in range(count)],)

    return in_turns(
        lambda batches: [theirs(rows) for rows in batches[:few]],
        lambda batches: [ours(rows) for rows in batches],
        pairs,
        budget,
        draw,
        (few * batch, count * batch),
    )


def measured(pairs=7, budget=0.0, quick=False, batch=256, cache=True):
    "What is compared -> its ratios, one after the other; seconds are per image."
    rng, some = np.random.default_rng(0), np.arange(0, N, N // 500)
    assert (contains_points(some) == sprites.render(some)).all((1, 2, 3)).mean() > 0.95
    yield (
        "render / Pillow polygon, one by one",
        against(sprites.render, pillow, batch, rng, pairs, budget / 4, 24, 8),
    )
    yield (
        "render / matplotlib contains_points, one by one",
        against(sprites.render, contains_points, batch, rng, pairs, budget / 4, 24, 24),
    )
    if quick or not cache:
        return
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {"GENMIX_CACHE": folder}):
        x = sprites.build_cache(progress=False)
        bytes_in_memory = sprites.render(np.arange(0, N, 15)[:50_000])
        rows = rng.integers(0, N, batch)
        assert np.array_equal(sprites.render(rows), x[rows])
        yield (
            "packed file / array of bytes in memory (50,000 images)",
            against(
                x.__getitem__,
                lambda rows: bytes_in_memory[rows % len(bytes_in_memory)],
                batch,
                rng,
                pairs,
                budget / 4,
                60,
            ),
        )
        yield (
            "packed file / render",
            against(x.__getitem__, sprites.render, batch, rng, pairs, budget / 4, 60),
        )
        del x  # Windows cannot remove a mapped file


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--no-cache", action="store_true", help="do not build the file of 377 MB")
    a = parser.parse_args()
    print(
        f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}; {platform.machine()}, {os.cpu_count()} "
        f"cores, numpy {np.__version__}; batches of {a.batch}; "
        f"{a.pairs} interleaved pairs, medians, images per second"
    )
    some = np.random.default_rng(0).integers(0, N, 500)
    for name, f in (("Pillow", pillow), ("matplotlib", contains_points)):
        print(
            f"{name} draws {(f(some) == sprites.render(some)).all((1, 2, 3)).mean():.1%} of 500 "
            "random images exactly as we do"
        )
    print(f"{'':58} {'baseline':>10} {'genmix':>10} {'ratio':>9} (min-max)")
    for name, r in measured(a.pairs, batch=a.batch, cache=not a.no_cache):
        print(
            f"{name:58} {1 / r['slow']:10,.0f} {1 / r['fast']:10,.0f} {r['median']:8.2f}x "
            f"({r['least']:.2f}-{r['largest']:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
