"""Chapter 00j: a painter with small tables against one image after another, ray by ray.

    OMP_NUM_THREADS=1 python -m benchmarks.worlds_arms [--pairs 7] [--batch 1024] [--slow 8]

The baseline is `genmix.worlds.arms.raycast`, the plain ray caster of the chapter: one image at a
time, every ray meets every solid, the nearest wins; NumPy, with 3 x 3 rays per pixel as ours has.
Ours is `genmix.worlds.arms.render` on random images out of all 1,036,800: warm (the tables of the
robot are in memory) and cold (they are forgotten before each measurement, so the batch pays for all
of them). That both draw the same is checked before anything is timed. A and B alternate, the ratio
of each pair is taken, and the median of the ratios is printed.
"""

import argparse
import os
import platform

from benchmarks.common import in_turns, seconds  # first: it sets the number of threads

import numpy as np

from genmix.worlds import arms


def forget():
    arms._robots.cache_clear()
    arms._backdrops.cache_clear()


def tables():
    arms._backdrops()
    return sum(a.nbytes for z in range(2) for c in range(3) for a in arms._robots(z, c))


def measured(pairs=7, budget=0.0, quick=False, batch=1024, slow=8):
    "What is compared -> its ratios, one after the other; seconds are per image."
    rng = np.random.default_rng(0)
    index = rng.integers(0, arms.COUNT, 16)
    difference = np.abs(arms.render(index) - np.rint([arms.raycast(i) for i in index])).mean()
    assert difference < 0.15, difference
    tables()
    batch = 256 if quick else batch
    for name, n in (
        ("warm, large batches", batch),
        ("warm, batches of 64", 64),
        ("cold, large batches", batch),
    ):
        repeat = 1 if name.startswith("cold") else max(1, 1024 // n)

        def draw(name=name, n=n):
            if name.startswith("cold"):
                forget()
            return rng.integers(0, arms.COUNT, slow), rng.integers(0, arms.COUNT, n)

        r = in_turns(
            lambda few, many: [arms.raycast(i, ss=3) for i in few],
            lambda few, many, repeat=repeat: [arms.render(many) for _ in range(repeat)],
            pairs,
            budget / 3,
            draw,
            (slow, n * repeat),
        )
        yield name, {**r, "differ": float(difference)}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=1024, help="images per call of ours")
    parser.add_argument(
        "--slow", type=int, default=8, help="images per measurement of the baseline"
    )
    a = parser.parse_args()
    made = seconds(tables)
    print(
        f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}; {platform.machine()}, {os.cpu_count()} "
        f"cores, numpy {np.__version__}; "
        f"{a.pairs} interleaved pairs, medians"
    )
    print(f"all tables of the robot made in {made:.1f} s, {tables() / 1e6:.1f} MB")
    for name, r in measured(a.pairs, batch=a.batch, slow=a.slow):
        print(
            f"{name:20} raycast {1 / r['slow']:6.1f}/s   render {1 / r['fast']:8,.0f}/s   "
            f"{r['median']:6.0f}x ({r['least']:.0f}-{r['largest']:.0f}); "
            f"they differ by {r['differ']:.2f} of 255 on average",
            flush=True,
        )


if __name__ == "__main__":
    main()
