"""How close does `rasterize` come to the bitmaps that Google published of the same drawings?

    python tools/compare_strokes.py --real DIR

DIR holds quickdraw/simplified25_{cat,eye,snowflake}.ndjson (the first lines of the official
simplified files) and quickdraw/numpy_bitmap/{cat,eye,snowflake}.npy (the official bitmaps, or their
first rows). A grid of pens and paddings is fitted on the cats; the defaults are measured on all
three. Writes genmix/published/strokes.json and nbs/images/strokes_real.png.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import genmix
from genmix import plots
from genmix.worlds.strokes import PADDING, THICKNESS, from_simplified, rasterize

ROOT = Path(__file__).resolve().parent.parent
CATEGORIES = ("cat", "eye", "snowflake")
UNITS = 304  # of the published recipe along the side of a picture


def read(folder, category):
    """The drawings as pen movements, the bitmaps of the same drawings [n, 1, 28, 28], and the
    files' checksums."""
    lines, bitmaps = (
        folder / f"simplified25_{category}.ndjson",
        folder / "numpy_bitmap" / f"{category}.npy",
    )
    sketches = [
        from_simplified(json.loads(line)["drawing"])
        for line in lines.read_text(encoding="utf-8").splitlines()
    ]
    x = np.load(bitmaps, allow_pickle=False, mmap_mode="r")[: len(sketches)].reshape(-1, 1, 28, 28)
    sums = {
        f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest()
        for p in (lines, bitmaps)
    }
    return sketches, np.array(x), sums


def correlation(a, b):
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def compare(ours, official):
    "What the table shows."
    a, b = ours >= 128, official >= 128
    return {
        "mean_difference": round(float(np.abs(ours.astype(int) - official).mean()), 4),
        "mean_difference_inked": round(
            float(np.abs(ours.astype(int) - official)[(ours > 0) | (official > 0)].mean()), 4
        ),
        "correlation": round(correlation(ours, official), 6),
        "iou": round(float((a & b).sum() / (a | b).sum()), 4),
        "mispaired_correlation": round(correlation(ours, np.roll(official, 1, axis=0)), 4),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--real", type=Path, required=True, help="folder with the real data, as GENMIX_DATA"
    )
    args = parser.parse_args()
    data = {c: read(args.real / "quickdraw", c) for c in CATEGORIES}

    step = 0.25
    pens, borders = np.arange(14, 18 + step, step), np.arange(14, 19 + step, step)
    sketches, official, _ = data["cat"]
    found = [
        (
            np.abs(
                rasterize(sketches, thickness=t / UNITS, padding=p / UNITS).astype(int) - official
            ).mean(),
            t,
            p,
        )
        for t in pens
        for p in borders
    ]
    best, t, p = min(found)
    rows = [
        {"category": c, "drawings": len(s), "detail": d} | compare(rasterize(s, detail=d), x)
        for c, (s, x, _) in data.items()
        for d in (1, 2, 4)
    ]
    result = {
        "provenance": {
            "data": "Google QuickDraw, CC BY 4.0: the first 25 drawings each of the simplified "
            "files, and the official 28 x 28 bitmaps"
            " of the same drawings",
            "sha256": {name: s for _, _, sums in data.values() for name, s in sums.items()},
            "what": "mean absolute difference (levels of 255) of genmix.worlds.strokes.rasterize "
            "and the official bitmaps;"
            " pen and padding fitted on the cats only",
            "genmix": genmix.__version__,
            "numpy": np.__version__,
            "command": "python tools/compare_strokes.py --real DIR",
        },
        "fit": {
            "category": "cat",
            "detail": 2,
            "tried": len(found),
            "step": step / UNITS,
            "best": {
                "thickness": t / UNITS,
                "padding": p / UNITS,
                "mean_difference": round(float(best), 4),
            },
        },
        "defaults": rows,
    }
    out = ROOT / "genmix" / "published" / "strokes.json"
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(part, out)

    pairs = np.concatenate(
        [half for s, x, _ in data.values() for half in (x[:12], rasterize(s[:12]))]
    )
    fig = plots.image_grid(
        pairs, ncols=12, row_labels=[f"{c}, {who}" for c in data for who in ("official", "ours")]
    )
    plots.caption(
        fig,
        "Real drawings: Google QuickDraw, CC BY 4.0. Official 28 × 28 bitmaps, and rasterize on "
        "the same pen movements.",
    )
    plots.save(fig, ROOT / "nbs" / "images" / "strokes_real.png", dpi=150)
    print(
        f"best of {len(found)}: thickness {t}/{UNITS}, padding {p}/{UNITS}, mean difference "
        f"{best:.3f};"
        f" defaults {THICKNESS * UNITS}, {PADDING * UNITS}"
    )
    for r in rows:
        print(r)


if __name__ == "__main__":
    main()
