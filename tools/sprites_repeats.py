"""Which of the 737,280 sprites are the same picture as an earlier one?

    python tools/sprites_repeats.py

Writes genmix/published/sprites_repeats.npz: `repeat` [m], numbers of images that repeat another, in
order, and `first` [m], the smallest numbers with the same pictures; without the full turn
(orientation 39 repeats 0), which `genmix.worlds.sprites.distinct` knows.
"""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import genmix
from genmix.worlds.sprites import factors, find_repeats

ROOT = Path(__file__).resolve().parent.parent


def main():
    repeat, first = find_repeats()
    other = factors(repeat)[:, 2] < 39
    out = ROOT / "genmix" / "published" / "sprites_repeats.npz"
    part = out.with_name(out.name + ".part")
    with open(part, "wb") as file:
        np.savez_compressed(
            file,
            repeat=repeat[other].astype(np.int32),
            first=first[other].astype(np.int32),
            provenance=np.array(
                f"genmix.worlds.sprites.find_repeats, genmix {genmix.__version__}; python "
                "tools/sprites_repeats.py"
            ),
        )
    os.replace(part, out)
    print(
        f"{other.sum():,} repeats besides {(~other).sum():,} full turns, {out.stat().st_size:,} "
        "bytes"
    )


if __name__ == "__main__":
    main()
