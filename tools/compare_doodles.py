"""Does a classifier that learned from REAL drawings recognize the synthetic doodles, and the other
way round?

    python tools/compare_doodles.py --real DIR

DIR holds quickdraw/sketchrnn/face.npz, quickdraw/numpy_bitmap/{cat,eye,snowflake}.npy (official
bitmaps or their first rows) and quickdraw/simplified25_{face,cat,snowflake,pencil,eye}.ndjson.
Faces are pen movements drawn by `rasterize`; cats, eyes and snowflakes are official bitmaps. So
that the way of drawing does not give the category away, the pen is the one that
genmix/published/strokes.json found for the official bitmaps, and the 25 drawings each that we have
in *both* forms, kept out of training, are scored in both. Small convolutional networks, 3 seeds,
one thread, about 3 minutes. Writes genmix/published/doodles.json and nbs/images/doodles_real.png.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

import genmix
from genmix import plots
from genmix.worlds.doodles import CATEGORIES, STYLES, images
from genmix.readers.files import read_bitmaps, read_ndjson, read_sketches
from genmix.worlds.strokes import from_simplified, rasterize

ROOT = Path(__file__).resolve().parent.parent
REAL = ("face", "cat", "snowflake", "eye")  # of these there are enough real drawings to learn from
HELD_OUT, SEEDS = 100, 3


def read(folder):
    "Real images by category, the 25 drawings we have in both forms, and the files' checksums."
    faces = read_sketches(folder / "sketchrnn" / "face.npz")
    x = {"face": rasterize([s for part in ("train", "valid", "test") for s in faces[part]])}
    x |= {
        c: np.array(read_bitmaps(folder / "numpy_bitmap" / f"{c}.npy"))[:, None] for c in REAL[1:]
    }
    strokes = {
        c: rasterize(
            [from_simplified(d) for d in read_ndjson(folder / f"simplified25_{c}.ndjson")[0]]
        )
        for c in CATEGORIES
    }
    files = (
        [folder / "sketchrnn" / "face.npz"]
        + [folder / "numpy_bitmap" / f"{c}.npy" for c in REAL[1:]]
        + [folder / f"simplified25_{c}.ndjson" for c in CATEGORIES]
    )
    return (
        x,
        strokes,
        {
            p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in files
        },
    )


def different(x, y, most=0.95):
    "Which of the pictures x correlate with none of the pictures y by more than this?"
    x, y = (np.float64(a.reshape(len(a), -1)) for a in (x, y))
    x, y = ((a - a.mean(axis=1, keepdims=True)) / a.std(axis=1, keepdims=True) for a in (x, y))
    return (x @ y.T / x.shape[1]).max(axis=1) < most


def network(classes):
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 16, classes),
    )


def moved(x, rng):
    "Shift every image by up to 2 pixels, mirror half of them."
    out = np.zeros_like(x)
    for i, (dy, dx) in enumerate(rng.integers(-2, 3, size=(len(x), 2))):
        out[i] = np.roll(x[i], (dy, dx), axis=(1, 2))  # the border is free of ink
    flip = rng.random(len(x)) < 0.5
    out[flip] = out[flip][..., ::-1]
    return out


def learn(groups, seed, steps=1500, batch=100):
    "Train on a list of image arrays, one per class, all classes equally often."
    torch.manual_seed(seed)
    rng, net = np.random.default_rng(seed), network(len(groups))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    y = torch.arange(len(groups)).repeat_interleave(batch // len(groups))
    for _ in range(steps):
        x = np.concatenate([g[rng.integers(len(g), size=batch // len(groups))] for g in groups])
        loss = nn.functional.cross_entropy(net(torch.from_numpy(moved(x, rng)).float() / 255), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def answers(nets, x):
    "Every network's answer for every image [S, N]."
    return np.stack(
        [
            net(torch.from_numpy(np.ascontiguousarray(x)).float() / 255).argmax(1).numpy()
            for net in nets
        ]
    )


def score(nets, groups, names):
    """Share of right answers per class (mean and range over networks), and how often each class got
    each answer."""
    table, confusion = {}, {}
    for name, x in groups.items():
        a = answers(nets, x)
        right = (a == names.index(name)).mean(axis=1)
        mean, least, most = (round(float(v), 4) for v in (right.mean(), right.min(), right.max()))
        table[name] = {"n": len(x), "accuracy": mean, "least": least, "most": most}
        confusion[name] = np.bincount(a.ravel(), minlength=len(names)).tolist()
    total = sum(t["n"] for t in table.values())
    return {
        "categories": table,
        "mean_of_categories": round(float(np.mean([t["accuracy"] for t in table.values()])), 4),
        "n": total,
        "confusion": {"answers": list(names), "counts_over_seeds": confusion},
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--real", type=Path, required=True, help="folder with the real data, as GENMIX_DATA"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    x, strokes, sums = read(args.real / "quickdraw")

    # some of the 25 simplified faces are among the 800; the first 25 bitmaps are drawings that we
    # have in both forms;
    # the last HELD_OUT are for the test
    faces = len(x["face"])
    x["face"] = x["face"][different(x["face"], strokes["face"])]
    twins = faces - len(x["face"])
    both = {c: x[c][:25] for c in REAL[1:]}
    train = {c: x[c][25 if c != "face" else 0 : -HELD_OUT] for c in REAL}
    held = {c: x[c][-HELD_OUT:] for c in REAL}
    synthetic, category, style = images(5000, seed=0)
    ours = {c: synthetic[category == CATEGORIES.index(c)] for c in CATEGORIES}

    real_nets = [learn(list(train.values()), seed) for seed in range(SEEDS)]
    doodle_nets = [learn(list(images_of(seed=1, n=10000).values()), seed) for seed in range(SEEDS)]

    styles = {}
    for c in REAL:
        for j, name in enumerate(STYLES[c]):
            pictures = synthetic[(category == CATEGORIES.index(c)) & (style == j)]
            right = answers(real_nets, pictures) == REAL.index(c)
            styles[f"{c}, {name}"] = {"n": len(pictures), "accuracy": round(float(right.mean()), 4)}
    same = {
        c: round(float((answers(real_nets, both[c]) == answers(real_nets, strokes[c])).mean()), 4)
        for c in both
    }
    result = {
        "provenance": {
            "data": "Google QuickDraw, CC BY 4.0: 800 faces (pen movements, a subset chosen by "
            "others), 4,959 cats, 3,000 eyes,"
            " 500 snowflakes (official bitmaps), the first 25 simplified drawings of each category",
            "what": f"small convolutional networks, {SEEDS} seeds, 1,500 steps of 100 drawings, "
            "all classes equally often; the"
            f" last {HELD_OUT} real drawings of each category and the first 25 of cat, snowflake, "
            "eye kept out of training,"
            f" {twins} of the 800 faces left out because they are among the 25 simplified ones; "
            "doodles: images(5000, seed=0)",
            "genmix": genmix.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "command": "python tools/compare_doodles.py --real DIR",
            "sha256": sums,
        },
        "trained_on": {
            "real": {c: len(v) for c, v in train.items()},
            "doodles": {"n": 10000, "seed": 1},
        },
        "real_to_real": score(real_nets, held, REAL),
        "real_to_doodles": score(real_nets, {c: ours[c] for c in REAL}, REAL) | {"styles": styles},
        "drawn_twice": {
            "official": score(real_nets, both, REAL),
            "rasterize": score(real_nets, {c: strokes[c] for c in REAL}, REAL),
            "same_answer": same,
        },
        "doodles_to_doodles": score(doodle_nets, ours, CATEGORIES),
        "doodles_to_real": score(doodle_nets, held, CATEGORIES),
        "doodles_to_strokes": score(doodle_nets, strokes, CATEGORIES),
    }
    out = ROOT / "genmix" / "published" / "doodles.json"
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(part, out)
    draw(x, strokes, ours)
    for key in (
        "real_to_real",
        "real_to_doodles",
        "doodles_to_doodles",
        "doodles_to_real",
        "doodles_to_strokes",
    ):
        print(
            key,
            result[key]["mean_of_categories"],
            {c: (t["accuracy"], t["n"]) for c, t in result[key]["categories"].items()},
        )
    print("twins", twins)
    print(
        "drawn twice",
        result["drawn_twice"]["official"]["mean_of_categories"],
        result["drawn_twice"]["rasterize"],
        same,
    )
    print("styles", styles)


def images_of(seed, n):
    "Doodles by category."
    x, category, _ = images(n, seed=seed)
    return {c: x[category == i] for i, c in enumerate(CATEGORIES)}


def draw(x, strokes, ours, k=12):
    "Real drawings above, doodles below; neither is selected."
    rows, labels = [], []
    for c in CATEGORIES:
        rows += [x[c][30 : 30 + k] if c in x else strokes[c][:k], ours[c][:k]]
        labels += [f"{c}, real", "doodles"]
    fig = plots.image_grid(np.concatenate(rows), ncols=k, row_labels=labels)
    plots.caption(
        fig,
        "Real: Google QuickDraw, CC BY 4.0 (faces, pencils: pen movements drawn by rasterize; else "
        "official bitmaps)."
        " Doodles: synthetic, seed 0. Neither selected.",
    )
    plots.save(fig, ROOT / "nbs" / "images" / "doodles_real.png", dpi=150)


if __name__ == "__main__":
    main()
