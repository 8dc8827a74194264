#!/usr/bin/env python
"""Fit the camera, the lights and the sizes of genmix.worlds.rooms to half of the real Shapes3D
pictures, evaluate on the other half.

    OMP_NUM_THREADS=1 python tools/fit_rooms.py --real DIR

DIR holds shapes3d/gif_53.npz (53 frames of the data set's GIF, palette colors, factors known) and
shapes3d/notebook_100.npz (100 pictures without labels, recovered from a figure, each up to a pixel
off). The fit uses the even frames and the even clean pictures (50, 52, ... 98). Written:
genmix/published/rooms.json (parameters, errors, provenance) and nbs/images/rooms_real.png. About
four minutes on one core. Nothing is random.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy import ndimage
from scipy.optimize import least_squares

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import genmix
from genmix.worlds import rooms

SOURCE = "deepmind/3d-shapes (Apache-2.0)"
DUPLICATE = (
    39  # frame 39 is frame 46 once more: leave it out, or a picture of the fit would be judged
)
PARTS = {
    "orientation": range(0, 15),
    "shape": range(15, 18),
    "scale": range(18, 25),
    "object hue": range(25, 34),
    "wall hue": [34, 35, 36, 37, 38, 43, 44, 45, 46],
    "floor hue": [40, 41, 42, 47, 48, 49, 50, 51, 52],
}

# Where the search starts: round numbers that look roughly right.
START = {
    "focal": 66.0,
    "center": [0.0, 0.0],
    "pitch": -0.017,
    "distance": 0.65,
    "height": 0.22,
    "wall": 0.56,
    "cube": [0.01, 0.2, 0.1],
    "cylinder": [0.01, 0.2, 0.1],
    "sphere": [0.01, 0.24, 0.12],
    "capsule": [0.01, 0.36, 0.09],
    "lamp": [-0.4, 0.0, 2.4],
    "spot": 10.0,
    "ambient": 0.33,
    "head": 0.5,
    "lamp_light": 0.9,
    "reflect": [1.1, 1.1],
    "gloss": 0.1,
    "sky": [153, 226, 249],
}

# What is fitted, and by how much it may reasonably move in one step. The sphere's height stays
# twice its radius.
STEPS = {
    "focal": 1.0,
    "center": [0.15, 0.15],
    "pitch": 0.01,
    "distance": 0.02,
    "height": 0.01,
    "wall": 0.01,
    "cube": [0.01, 0.01, 0.01],
    "cylinder": [0.01, 0.01, 0.01],
    "sphere": [0.01, 0, 0.01],
    "capsule": [0.01, 0.01, 0.01],
    "lamp": [0.1, 0.1, 0.2],
    "spot": 2.0,
    "ambient": 0.03,
    "head": 0.05,
    "lamp_light": 0.1,
    "reflect": [0.05, 0.05],
    "gloss": 0.03,
}


def gif_factors():
    "The factors of the 53 frames, from what is known of the order of the sweeps."
    f = (
        [(0, 6, 3, 0, 0, o) for o in range(15)]
        + [(0, 6, 3, 0, s, 14) for s in (1, 2, 3)]
        + [(0, 6, 3, s, 3, 14) for s in range(1, 8)]
    )
    f += [(0, 6, h, 7, 3, 14) for h in (4, 5, 6, 7, 8, 9, 0, 1, 2)] + [
        (0, h, 2, 7, 3, 14) for h in (7, 8, 9, 0, 1, 5)
    ]
    f += [(h, 5, 2, 7, 3, 14) for h in (1, 2, 3)] + [(0, h, 2, 7, 3, 14) for h in (2, 3, 4, 5)]
    f += [(h, 5, 2, 7, 3, 14) for h in range(4, 10)]
    return np.array(f)


def read(folder, name, n):
    "The pictures as floats from 0 to 1, and the file's sha256."
    path = Path(folder, "shapes3d", name)
    if not path.is_file():
        sys.exit(f"{name} not found: --real needs a folder that holds shapes3d/{name}")
    with np.load(path, allow_pickle=False) as z:
        x = z["images"]
    if x.shape != (n, 64, 64, 3) or x.dtype != np.uint8:
        sys.exit(f"{name}: expected uint8 [{n}, 64, 64, 3], found {x.dtype} {list(x.shape)}")
    return x / 255, hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- parameters as a vector
def flat(p):
    return np.concatenate([np.ravel(p[k]) for k in STEPS]).astype(float)


def unflat(p, v):
    out, v = json.loads(json.dumps(p)), list(v)
    for k, s in STEPS.items():
        part = [float(v.pop(0)) for _ in np.ravel(s)]
        out[k] = part if np.ndim(s) else part[0]
    out["sphere"][1] = 2 * out["sphere"][2]
    return out


def moved(p, shift):
    "The same world, the picture moved by (columns, rows)."
    return p | {"center": [p["center"][0] + float(shift[0]), p["center"][1] + float(shift[1])]}


def picture(p, f, k, room=None):
    "Like rooms.raycast, but [64, 64, 3], and an empty room may be shared."
    material, m, w = rooms.trace(
        np.radians(rooms.VALUES["orientation"][f[5]]), rooms.VALUES["scale"][f[3]], f[4], p, k, room
    )
    b = np.stack([np.zeros(3), *(rooms.HUES[f[i]] for i in range(3))])[material]
    color = np.where(
        material[:, None] == rooms.SKY,
        np.array(p["sky"]) / 255,
        np.minimum(1, m[:, None] * b + w[:, None]),
    )
    return color.reshape(64, k, 64, k, 3).mean((1, 3)), material.reshape(64, k, 64, k)


def residuals(p, data, k):
    """Ours minus real for (picture, factors, shift or None); pictures with a shift lose a ring of
    two pixels."""
    shared, out = {}, []
    for x, f, shift in data:
        if shift is None:
            if f[5] not in shared:
                shared[f[5]] = rooms.empty_room(np.radians(rooms.VALUES["orientation"][f[5]]), p, k)
            out.append((picture(p, f, k, shared[f[5]])[0] - x).ravel())
        else:
            out.append((picture(moved(p, shift), f, k)[0] - x)[2:-2, 2:-2].ravel())
    return np.concatenate(out)


def fit(p, data, rounds, k=2):
    "Least squares with a loss that large misfits (the walls' pattern, dithering) do not dominate."
    x0, step = flat(p), flat(STEPS)
    free = step > 0

    def full(u):
        x = x0.copy()
        x[free] += step[free] * (u - 1)
        return unflat(p, x)

    fun = lambda u: residuals(full(u), data, k)
    s = least_squares(
        fun, np.ones(free.sum()), loss="soft_l1", f_scale=0.08, diff_step=0.05, max_nfev=rounds
    )
    return full(s.x), s


# ---------------------------------------------------------------- pictures without labels
def color_cost(x):
    "How badly each pixel goes with the sky and with each hue at some brightness: [4096, 11]."
    e = [((x - np.array(START["sky"]) / 255) ** 2).sum(-1)]
    for b in rooms.HUES:
        m = ((x * b).sum(-1) / (b * b).sum()).clip(0.2, 1.3)
        e.append(((x - np.minimum(m[..., None] * b, 1)) ** 2).sum(-1))
    e = np.minimum(np.stack(e, -1), 0.3)
    e[[0, 1, -2, -1]] = 0
    e[:, [0, 1, -2, -1]] = 0
    return e.reshape(4096, 11)


def infer(p, pictures, k=3, keep=8):
    "Factors and shift of each picture by its nearest rendering."
    geometry = [(s, sh, o) for s in range(8) for sh in range(4) for o in range(15)]
    maps, empty = np.empty((480, 64 * k, 64 * k), np.int8), {}
    for o in range(15):
        phi = np.radians(rooms.VALUES["orientation"][o])
        empty = rooms.empty_room(phi, p, k)
        for g in range(o, 480, 15):
            maps[g] = rooms.trace(
                phi, rooms.VALUES["scale"][geometry[g][0]], geometry[g][1], p, k, empty
            )[0].reshape(64 * k, -1)
    costs = np.stack([color_cost(x) for x in pictures])  # [n, 4096, 11]
    shifts = [(dx, dy) for dx in (-1, 0, 1) for dy in (-2, -1, 0)]
    total, hues = (
        np.empty((len(shifts), 480, len(pictures)), np.float32),
        np.empty((len(shifts), 480, len(pictures), 3), np.int8),
    )
    side = costs.transpose(1, 0, 2).reshape(4096, -1).astype(np.float32)
    for i, (dx, dy) in enumerate(shifts):
        for g in range(0, 480, 60):
            m = np.roll(maps[g : g + 60], (dy, dx), (1, 2))
            share = np.stack(
                [
                    (m == j).reshape(60, 64, k, 64, k).mean((2, 4), dtype=np.float32)
                    for j in range(4)
                ],
                1,
            )
            c = (share.reshape(240, 4096) @ side).reshape(60, 4, len(pictures), 11)
            total[i, g : g + 60] = c[:, 0, :, 0] + c[:, 1:, :, 1:].min(-1).sum(1)
            hues[i, g : g + 60] = c[:, 1:, :, 1:].argmin(-1).transpose(0, 2, 1)
    found = []
    for n, x in enumerate(pictures):
        tried = {}
        for at in np.argsort(total[:, :, n], axis=None, kind="stable"):
            i, g = divmod(int(at), 480)
            if g in tried:
                continue
            f, shift = (*(int(h) for h in hues[i, g, n]), *geometry[g]), np.array(shifts[i]) / k
            tried[g] = (misfit(p, x, f, shift), f, shift)
            if len(tried) == keep:
                break
        best = sorted(tried.values(), key=lambda c: c[0])[
            :2
        ]  # the shift decides between neighbors: settle it first
        best = [(f, settle(p, x, f, shift)) for _, f, shift in best]
        found.append(min(best, key=lambda c: misfit(p, x, *c)))
    return found


def misfit(p, x, f, shift):
    "Mean difference between a picture and a moved rendering, without a ring of two pixels."
    return float(abs(picture(moved(p, shift), f, 2)[0] - x)[2:-2, 2:-2].mean())


def settle(p, x, f, shift):
    """The shift that fits best, to about a tenth of a pixel: with 3 x 3 rays in a pixel, smaller
    steps only measure the grid."""
    fun = lambda u: (picture(moved(p, u - 5), f, 3)[0] - x)[2:-2, 2:-2].ravel()
    return (
        least_squares(
            fun, np.asarray(shift) + 5, loss="soft_l1", f_scale=0.08, diff_step=0.06, max_nfev=6
        ).x
        - 5
    )


def best_cylinder(p, pictures, say):
    """The frames of the fit show no cylinder, and in pictures without labels a size and the scales
    can trade places: a cylinder drawn too small is found at the next larger scale. So several sizes
    are tried, each with its own inference."""
    tried = []
    for larger in (1.0, 1.04, 1.08, 1.12):
        q = p | {"cylinder": [larger * v for v in START["cylinder"]]}
        cost = np.mean([misfit(q, x, *c) for x, c in zip(pictures, infer(q, pictures))])
        say(f"cylinder {larger:.2f} times its first size: mean error {255 * cost:.3f}")
        tried.append((cost, q))
    return min(tried, key=lambda c: c[0])[1]


# ---------------------------------------------------------------- judging
def object_mask(x, f):
    """Which pixels of a real picture show the object: nearest to its hue at some brightness; no
    thin lines, the largest piece, holes filled."""
    e = [((x - np.array(START["sky"]) / 255) ** 2).sum(-1)]
    for h, low in zip(f[:3], (0.2, 0.5, 0.35)):
        b = rooms.HUES[h]
        m = ((x * b).sum(-1) / (b * b).sum()).clip(low, 1.3)
        e.append(((x - np.minimum(m[..., None] * b, 1)) ** 2).sum(-1))
    mask = np.argmin(np.stack(e, -1), -1) == 3
    mask &= ndimage.binary_dilation(
        ndimage.binary_opening(mask, np.ones((3, 3)))
    )  # no thin lines: blends of two other colors
    pieces, n = ndimage.label(mask)
    if n > 1:
        mask = pieces == 1 + np.argmax(ndimage.sum(mask, pieces, range(1, n + 1)))
    return ndimage.binary_fill_holes(mask)


def judge(p, x, f, shift=None, k=4):
    """Mean RGB error in gray levels, IoU of the object (None where its hue stands elsewhere too),
    error near outlines and elsewhere."""
    ours, material = picture(p if shift is None else moved(p, shift), f, k)
    inner = (slice(None),) * 2 if shift is None else (slice(2, -2),) * 2
    error = 255 * abs(np.rint(255 * ours) / 255 - x)
    lo, hi = material.min((1, 3)), material.max((1, 3))
    edge = ndimage.maximum_filter(hi, 3) != ndimage.minimum_filter(lo, 3)
    iou = None
    if f[2] not in f[:2]:
        a, b = (material == rooms.OBJECT).mean((1, 3))[inner] > 0.5, object_mask(x, f)[inner]
        iou = float((a & b).sum() / (a | b).sum())
    return {
        "error": float(error[inner].mean()),
        "iou": iou,
        "edge": float(error[inner][edge[inner]].mean()),
        "inside": float(error[inner][~edge[inner]].mean()),
        "edge_share": float(edge[inner].mean()),
    }


def summary(rows):
    "Means over pictures."
    iou = [r["iou"] for r in rows if r["iou"] is not None]
    out = {
        "pictures": len(rows),
        "mean_error": np.mean([r["error"] for r in rows]),
        "worst_error": max(r["error"] for r in rows),
    }
    out |= {
        "error_near_outlines": np.mean([r["edge"] for r in rows]),
        "error_elsewhere": np.mean([r["inside"] for r in rows]),
        "share_near_outlines": np.mean([r["edge_share"] for r in rows]),
        "iou_pictures": len(iou),
    }
    if iou:
        out |= {"mean_iou": np.mean(iou), "worst_iou": min(iou)}
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in out.items()}


def by(rows, key, names=None):
    groups = sorted({r[key] for r in rows}, key=str)
    return {
        (names[g] if names else str(g)): summary([r for r in rows if r[key] == g]) for g in groups
    }


def figure(p, gif, factors, path):
    "Real, ours, difference for frames of the half that was not fitted."
    from genmix import plots

    frames = [1, 7, 13, 15, 17, 21, 33, 41, 49]
    real = [gif[i] for i in frames]
    ours = [picture(p, factors[i], 4)[0] for i in frames]
    rows = [*real, *ours, *(np.clip(0.5 + (o - r) / 2, 0, 1) for o, r in zip(ours, real))]
    x = np.rint(255 * np.stack(rows)).astype(np.uint8).transpose(0, 3, 1, 2)
    fig = plots.image_grid(
        x, ncols=len(frames), row_labels=["real", "synthetic", "difference"], width=9
    )
    plots.caption(
        fig,
        f"top: frames {', '.join(map(str, frames))} of the GIF of {SOURCE}, none of them used in "
        "the fit; "
        "middle: genmix.worlds.rooms (synthetic); bottom: half the difference, gray is none",
    )
    plots.save(fig, path, dpi=110)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--real",
        required=True,
        help="folder that holds shapes3d/gif_53.npz and shapes3d/notebook_100.npz",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "genmix" / "published" / "rooms.json")
    parser.add_argument("--image", type=Path, default=ROOT / "nbs" / "images" / "rooms_real.png")
    a = parser.parse_args()
    began = time.time()

    def say(text):
        print(f"{time.time() - began:5.0f} s  {text}", flush=True)

    (gif, gif_sha), (book, book_sha) = (
        read(a.real, "gif_53.npz", 53),
        read(a.real, "notebook_100.npz", 100),
    )
    factors = gif_factors()
    even_frames = (
        *range(0, 25, 2),
        26,
        30,
        34,
        36,
        40,
        44,
        48,
    )  # from 25 on only colors change: some suffice
    frames = [(gif[i], factors[i], None) for i in even_frames]
    p, s = fit(START, frames, 12)
    say(
        f"frames alone: cost {s.cost / len(frames):.3f} a picture, mean error "
        f"{255 * abs(residuals(p, frames, 2)).mean():.2f}"
    )
    even = book[50::2]
    p = best_cylinder(p, even, say)
    for _ in range(2):
        data = frames + [(x, *found) for x, found in zip(even, infer(p, even))]
        p, s = fit(p, data, 8)
        say(
            f"both: cost {s.cost / len(data):.3f} a picture, mean error "
            f"{255 * abs(residuals(p, data, 2)).mean():.2f}"
        )
    p = {k: (np.round(v, 5).tolist() if k != "sky" else v) for k, v in p.items()}
    found = [(f, shift.round(3)) for f, shift in infer(p, book)]

    rows = [
        {
            "frame": i,
            "factors": factors[i].tolist(),
            "half": ("fit", "test")[i % 2],
            "shape": int(factors[i][4]),
            "sweep": next(k for k, v in PARTS.items() if i in v),
            **judge(p, gif[i], factors[i]),
        }
        for i in range(53)
        if i != DUPLICATE
    ]
    unlabelled = []
    for i, (f, shift) in enumerate(found):
        group = "cropped" if i < 50 else ("fit", "test")[i % 2]
        unlabelled.append(
            {
                "picture": i,
                "factors": [int(v) for v in f],
                "shift": [float(v) for v in shift],
                "half": group,
                "shape": int(f[4]),
                "error_unshifted": judge(p, book[i], f, (0, 0))["error"],
                **judge(p, book[i], f, shift),
            }
        )
    mean_picture = np.mean([gif[i] for i in range(0, 53, 2)], 0)
    plain = float(
        np.mean(
            [255 * abs(mean_picture - gif[i]).mean() for i in range(1, 53, 2) if i != DUPLICATE]
        )
    )
    halves = {h: [r for r in rows if r["half"] == h] for h in ("fit", "test")}
    errors = {
        "frames": {h: summary(r) for h, r in halves.items()},
        "frames_test_by_shape": by(halves["test"], "shape", rooms.SHAPES),
        "frames_test_by_sweep": by(halves["test"], "sweep"),
        "frames_test_mean_picture": round(plain, 4),
        "unlabelled": {
            h: summary(r)
            | {"mean_error_unshifted": round(float(np.mean([q["error_unshifted"] for q in r])), 4)}
            for h in ("fit", "test", "cropped")
            if (r := [q for q in unlabelled if q["half"] == h])
        },
        "unlabelled_test_by_shape": by(
            [r for r in unlabelled if r["half"] == "test"], "shape", rooms.SHAPES
        ),
    }
    short = lambda r: {
        k: round(v, 3) if isinstance(v, float) else v
        for k, v in r.items()
        if k not in ("edge", "inside", "edge_share")
    }
    provenance = {
        "data": f"{SOURCE}: 53 frames of the data set's GIF (palette colors, factors known) and "
        "100 pictures of its notebook "
        "(no labels)",
        "sha256": {"gif_53.npz": gif_sha, "notebook_100.npz": book_sha},
        "genmix": genmix.__version__,
        "command": "OMP_NUM_THREADS=1 python tools/fit_rooms.py --real DIR",
        "seed": "none: nothing is random",
        "split": "fit: frames 0, 2, ... 52 and pictures 50, 52, ... 98; test: the odd ones "
        "(without frame 39, the double of 46); "
        "cropped: pictures 0 to 49, whose border ring was copied, never fitted",
        "units": "errors in gray levels of 255, mean over pixels and channels; unlabelled "
        "pictures: nearest rendering, moved by "
        "their shift, without a ring of two pixels",
        "mask": "real object: pixels nearest to the object's hue at some brightness, thin lines "
        "removed, largest piece, holes filled; "
        "ours: more than half of a pixel's rays. Left out where the object shares its hue with "
        "floor or wall",
    }
    out = {"provenance": provenance, "parameters": p, "errors": errors}
    out |= {"frames": [short(r) for r in rows], "unlabelled": [short(r) for r in unlabelled]}
    part = a.out.with_name(a.out.name + ".part")
    part.write_text(json.dumps(out) + "\n", encoding="utf-8")
    os.replace(part, a.out)
    figure(p, gif, factors, a.image)
    say("written")
    print(
        json.dumps(p),
        json.dumps(errors["frames"], indent=1),
        json.dumps(errors["unlabelled"], indent=1),
        sep="\n",
    )


if __name__ == "__main__":
    main()
