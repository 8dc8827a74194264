"""Chapter 00i: pictures as sums of layers against one picture after another, ray by ray.

    OMP_NUM_THREADS=1 python -m benchmarks.worlds_rooms [--pairs 7] [--batch 2048] [--slow 8]

The baseline is `genmix.worlds.rooms.raycast`, the plain ray caster of the chapter: one picture at a
time, 16 rays per pixel, NumPy. Ours is `genmix.worlds.rooms.render` on random batches of all
480,000 pictures: warm (the layers of all 480 geometries are in memory) and cold (an empty table, so
that the batch has to make the geometries it meets). That both draw the same is checked before
anything is timed. A and B alternate, the ratio of each pair is taken, and the median of the ratios
is printed.
"""

import argparse
import os
import platform

from benchmarks.common import in_turns, seconds  # first: it sets the number of threads

import numpy as np

from genmix.worlds import rooms


def forget():
    rooms._table.cache_clear()
    rooms._room.cache_clear()


def measured(pairs=7, budget=0.0, quick=False, batch=2048, slow=8):
    "What is compared -> its ratios, one after the other; seconds are per picture."
    rng, p = np.random.default_rng(0), rooms.parameters()
    index = rng.integers(0, 480_000, slow)
    for x, f in zip(rooms.render(index), rooms.factors(index), strict=True):
        assert abs(255 * rooms.raycast(f, p) - x).max() < 0.55
    rooms.prepare()
    batch = 256 if quick else batch
    for name, n in (
        ("warm, large batches", batch),
        ("warm, batches of 64", 64),
        ("cold, large batches", batch),
    ):
        repeat = max(1, 1024 // n)

        def draw(name=name, n=n):
            if name.startswith("cold"):
                forget()
            return rooms.factors(rng.integers(0, 480_000, slow)), rng.integers(0, 480_000, n)

        yield (
            name,
            in_turns(
                lambda few, many: [rooms.raycast(f, p) for f in few],
                lambda few, many, repeat=repeat: [rooms.render(many) for _ in range(repeat)],
                pairs,
                budget / 3,
                draw,
                (slow, n * repeat),
            ),
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=2048, help="pictures per call of ours")
    parser.add_argument(
        "--slow", type=int, default=8, help="pictures per measurement of the baseline"
    )
    a = parser.parse_args()
    everything = seconds(rooms.prepare)
    print(
        f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}; {platform.machine()}, {os.cpu_count()} "
        f"cores, numpy {np.__version__}; "
        f"{a.pairs} interleaved pairs, medians"
    )
    print(f"all 480 geometries made in {everything:.1f} s, {rooms._table()[0].nbytes / 1e6:.0f} MB")
    for name, r in measured(a.pairs, batch=a.batch, slow=a.slow):
        print(
            f"{name:22} raycast {1 / r['slow']:6.1f}/s   render {1 / r['fast']:9,.0f}/s   "
            f"{r['median']:7.1f}x ({r['least']:.1f}-{r['largest']:.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
