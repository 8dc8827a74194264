"""Drawings per second: `genmix.worlds.strokes.rasterize` against Pillow, and synthetic doodles per
second.

    OMP_NUM_THREADS=1 python -m benchmarks.worlds_strokes [--pairs 5] [--drawings 2000] [--real DIR]

The baseline is what one would write first: one drawing after another, `PIL.ImageDraw.line` with a
round pen in a picture 4 (or 2) times as large, made smaller with a box filter. Both sides place
every drawing in the same way, and that they draw the same is checked before anything is timed. A
and B alternate; the ratio of each pair is taken, and the median of the ratios is printed. The
drawings are doodles, about as long as QuickDraw's (45 points); with --real (a folder as
GENMIX_DATA) also the real categories there, and the time to read them.
"""

import argparse
import os
import platform
import statistics
from pathlib import Path

from benchmarks.common import in_turns, seconds  # first: it sets the number of threads

import numpy as np
import PIL
from PIL import Image, ImageDraw

from genmix.worlds.doodles import doodles, images
from genmix.readers.files import read_sketches
from genmix.worlds.strokes import PADDING, THICKNESS, rasterize, to_lines


def pillow(sketches, size=28, times=4):
    "One drawing after another [N, 1, size, size]."
    out = np.zeros((len(sketches), 1, size, size), np.uint8)
    big, pen = size * times, size * times * THICKNESS
    for i, sketch in enumerate(sketches):
        lines = to_lines(sketch)
        q = np.concatenate(lines)
        low, high = q.min(axis=0), q.max(axis=0)
        scale = big * (1 - 2 * PADDING - THICKNESS) / max((high - low).max(), 1)
        image = Image.new("L", (big, big))
        canvas = ImageDraw.Draw(image)
        for line in lines:
            points = [tuple(p) for p in ((line - (low + high) / 2) * scale + big / 2).tolist()]
            if len(points) > 1:
                canvas.line(points, fill=255, width=round(pen), joint="curve")
            for x, y in (points[0], points[-1]):  # round ends, and dots
                canvas.ellipse([x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2], fill=255)
        out[i, 0] = np.asarray(image.resize((size, size), Image.Resampling.BOX))
    return out


def measured(pairs=5, budget=0.0, quick=False, drawings=2000):
    "What is compared -> its ratios, one after the other; seconds are per drawing."
    drawings = 200 if quick else drawings
    sketches, _, _ = doodles(drawings)
    for detail, times in ((1, 2), (2, 4), (4, 4)):

        def ours(detail=detail):
            return rasterize(sketches, detail=detail)

        def theirs(times=times):
            return pillow(sketches, times=times)

        same = np.corrcoef(ours().ravel(), theirs().ravel())[0, 1]
        assert same > 0.95, f"they draw different pictures: correlation {same:.3f}"
        yield (
            f"detail {detail}, Pillow at {times}x",
            {
                **in_turns(theirs, ours, pairs, budget / 3, items=(drawings, drawings)),
                "correlation": float(same),
            },
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--drawings", type=int, default=2000)
    parser.add_argument(
        "--real", type=Path, help="folder with real data: quickdraw/sketchrnn/*.npz"
    )
    a = parser.parse_args()
    sketches, _, _ = doodles(a.drawings)
    print(
        f"{a.drawings} doodles, {np.mean([len(s) for s in sketches]):.0f} points each, 28 x 28; "
        f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}; {platform.machine()}, {os.cpu_count()} "
        "cores, "
        f"numpy {np.__version__}, Pillow {PIL.__version__}; {a.pairs} interleaved pairs, medians"
    )
    print(
        f"{'':24} {'rasterize':>10} {'Pillow':>10} {'ratio':>7} {'(min-max)':>13}   drawings per "
        "second"
    )
    for name, r in measured(a.pairs, drawings=a.drawings):
        print(
            f"{name:24} {1 / r['fast']:10,.0f} {1 / r['slow']:10,.0f} {r['median']:6.1f}x "
            f"({r['least']:.1f}-{r['largest']:.1f}), "
            f"correlation of the pictures {r['correlation']:.3f}",
            flush=True,
        )
    made = [seconds(lambda: doodles(a.drawings, seed=1)) for _ in range(a.pairs)]
    drawn = [seconds(lambda: images(a.drawings, seed=1)) for _ in range(a.pairs)]
    print(
        f"doodles: {a.drawings / statistics.median(made):,.0f} per second as pen movements, "
        f"{a.drawings / statistics.median(drawn):,.0f} per second as pictures (detail 2)"
    )
    if a.real:
        files = sorted((a.real / "quickdraw" / "sketchrnn").glob("*.npz"))
        real = []
        read = seconds(
            lambda: real.extend(
                s for f in files for part in read_sketches(f).values() for s in part
            )
        )
        draw = seconds(lambda: rasterize(real))
        print(
            f"real: {len(files)} categories, {len(real):,} drawings: read in {read:.2f} s, drawn "
            f"in {draw:.2f} s "
            f"({len(real) / draw:,.0f} per second)"
        )


if __name__ == "__main__":
    main()
