"""Chapter 00j: a painter with small tables against one image after another, ray by ray.

    OMP_NUM_THREADS=1 python -m benchmarks.worlds_arms [--pairs 7] [--batch 1024] [--slow 8]

The baseline is `genmix.arms.raycast`, the plain ray caster of the chapter: one image at a time, every ray meets every solid, the nearest
wins; NumPy, with 3 x 3 rays per pixel as ours has. Ours is `genmix.arms.render` on random images out of all 1,036,800: warm (the
tables of the robot are in memory) and cold (they are forgotten before each measurement, so the batch pays for all of them). That both
draw the same is checked before anything is timed. A and B alternate, the ratio of each pair is taken, and the median of the
ratios is printed.
"""

import argparse
import os
import platform
import statistics

from benchmarks.common import seconds  # first: it sets the number of threads

import numpy as np

from genmix import arms


def forget():
    arms._robots.cache_clear()
    arms._backdrops.cache_clear()


def tables():
    arms._backdrops()
    return sum(a.nbytes for z in range(2) for c in range(3) for a in arms._robots(z, c))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=1024, help="images per call of ours")
    parser.add_argument("--slow", type=int, default=8, help="images per measurement of the baseline")
    a = parser.parse_args()
    rng = np.random.default_rng(0)
    index = rng.integers(0, arms.COUNT, 16)
    difference = np.abs(arms.render(index) - np.rint([arms.raycast(i) for i in index])).mean()
    assert difference < 0.15, difference
    forget()
    made = seconds(tables)
    print(f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}; {platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}; "
          f"{a.pairs} interleaved pairs, medians")
    print(f"render and raycast differ by {difference:.2f} of 255 on average; all tables of the robot made in {made:.1f} s, {tables() / 1e6:.1f} MB")
    for name, batch in ((f"warm, {a.batch}", a.batch), ("warm, 64", 64), (f"cold, {a.batch}", a.batch)):
        slow, fast = [], []
        for _ in range(a.pairs):
            few, many = rng.integers(0, arms.COUNT, a.slow), rng.integers(0, arms.COUNT, batch)
            slow.append(a.slow / seconds(lambda few=few: [arms.raycast(i, ss=3) for i in few]))
            if name.startswith("cold"):
                forget()
            repeat = 1 if name.startswith("cold") else max(1, 1024 // batch)
            fast.append(repeat * batch / seconds(lambda many=many, repeat=repeat: [arms.render(many) for _ in range(repeat)]))
        ratios = [f / s for s, f in zip(slow, fast, strict=True)]
        print(f"{name + ' images':20} raycast {statistics.median(slow):6.1f}/s   render {statistics.median(fast):8,.0f}/s   "
              f"{statistics.median(ratios):6.0f}x ({min(ratios):.0f}-{max(ratios):.0f})")


if __name__ == "__main__":
    main()
