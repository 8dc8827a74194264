#!/usr/bin/env python
"""Fit the scene of genmix.worlds.arms to real frames of MPI3D's toy set, and say how well it fits.

    OMP_NUM_THREADS=1 python tools/fit_arms.py --real DIR        (about 90 seconds on one core)

DIR holds mpi3d/gif_frames.npz: one-factor sweeps from the animations in
rr-learning/disentanglement_dataset (CC BY 4.0), per set [20 frames, 7 factors, 64, 64, 3]. The even
frames are fitted, the odd ones evaluated. Writes genmix/published/arms.json (parameters, errors,
provenance) and nbs/images/arms_real.png.

How the factor values of the frames are known: the animations step through a factor as
`cycle_factor` of disentanglement_lib does (`cycle` below), which reproduces every sequence of
colors, shapes, sizes, cameras and backgrounds that one can see. Of the two motions only the
starting value is unknown. The way back of a sweep passes between the stops of the way there, off by
one step on one side or the other, which leaves one possibility; `--check-start` refits the
landmarks with its neighbors.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.optimize import least_squares

import genmix
from genmix.worlds import arms

ROOT = Path(__file__).resolve().parent.parent
SIZES = np.array(list(arms.FACTORS.values()))
NAMES = list(arms.FACTORS)
START = {
    "toy1": (3, 4, 1, 1, 1, 22, 21),
    "toy2": (2, 2, 0, 0, 0, 39, 27),
}  # the factors of both base images
FOOT = {
    0: (30.0, 41.3),
    1: (33.5, 43.8),
    2: (29.5, 50.2),
}  # middle of the robot's disk per camera, read off by eye
# where the fit begins: the landmarks hardly tell focal length from distance, the images do
FOCAL = 95.0
RING = {
    0: ("toy1", 12),
    1: ("toy1", 0),
    2: ("toy1", 2),
}  # an even frame of the camera sweep for each camera


def cycle(start, count, frames=20):
    """The values a sweep shows: up from `start`, back down, and up again, as disentanglement_lib's
    cycle_factor."""
    k = np.ceil(np.linspace(start, start + 2 * count, frames, endpoint=False)).astype(int)
    k -= np.maximum(0, 2 * k - 2 * count + 1)
    return k + np.maximum(0, -2 * k - 1)


def sweeps(start):
    "The factors of all frames of a set, [20, 7, 7]."
    F = np.tile(np.array(start), (20, 7, 1))
    for k in range(7):
        F[:, k, k] = cycle(start[k], SIZES[k])
    return F


def object_mask(img, name):
    """Pixels [H, W] of the object in an image [3, H, W]: the blue of toy1, the red of toy2, and
    faces nearly black."""
    r, g, b = img.astype(int)
    colored = (
        (b - r > 25) & (g - r > 10) & (b - g > 15) if name == "toy1" else r - np.maximum(g, b) > 25
    )
    return colored | (img.max(0) < 36)


# ---------------------------------------------------------------- stage 1: landmarks
def landmarks(X, F):
    """Middles of the objects (set, factors, u, v) and edges of the ring per camera (u, upper row,
    lower row), even frames only."""
    middles = []
    for name in START:
        for k in (3, 5, 6):
            for t in range(0, 20, 2):
                v, u = np.nonzero(object_mask(X[name][t, k], name))
                middles.append((name == "toy1", *F[name][t, k], u.mean() + 0.5, v.mean() + 0.5))
    ring = {}
    for c, (name, t) in RING.items():
        img = X[name][t, 3].astype(int)
        spread, rows = img.max(0) - img.min(0), []
        for u in [*range(1, 20, 3), *range(44, 64, 3)]:
            on = np.flatnonzero((spread[:, u] > 14) & (spread[:, u] < 45))
            run = max(np.split(on, np.flatnonzero(np.diff(on) > 1) + 1), key=len)
            rows.append((u + 0.5, run[0], run[-1] + 1))
        ring[c] = np.array(rows, float)
    return np.array(middles, float), ring


def fit_landmarks(middles, ring, shift=(0, 0, 0, 0), focal=FOCAL):
    """Cameras and kinematics from the landmarks; `shift` moves the starting values (h, v of toy1,
    h, v of toy2)."""
    toy1 = middles[:, 0] > 0
    c = middles[:, 4].astype(int)
    h = middles[:, 6] + np.where(toy1, shift[0], shift[2])
    v = middles[:, 7] + np.where(toy1, shift[1], shift[3])

    def unpack(x):
        cam = np.insert(x[:14], 5, 0.0).reshape(3, 5)  # the center camera stands at x = 0
        return dict(
            focal=focal,
            camera=cam,
            height=x[14],
            offset=x[15],
            pitch=x[18:20],
            azimuth=x[20:22],
            ring=x[22:24],
        ), x[16:18]

    def residuals(x):
        p, middle = unpack(x)
        s, a, _ = arms.pose(p, h, v)
        out = [
            (
                arms.project(p, c, s + a * np.where(toy1, *middle)[:, None])[:, :2] - middles[:, 8:]
            ).ravel()
        ]
        for k, points in ring.items():
            C, r, d, f = (e[0] for e in arms.camera(p, np.array([k])))
            for j, radius in ((1, p["ring"][1]), (2, p["ring"][0])):
                ray = f + ((points[:, :1] - 32) * r + (points[:, j : j + 1] - 32) * d) / p["focal"]
                Y = C - C[2] / ray[:, 2:] * ray
                Y = Y / np.linalg.norm(Y, axis=1, keepdims=True) * radius
                out.append(
                    0.5
                    * (arms.project(p, np.full(len(Y), k), Y)[:, :2] - points[:, [0, j]]).ravel()
                )
            out.append(arms.project(p, np.array([k]), np.zeros((1, 3)))[0, :2] - FOOT[k])
        out.append([100 * (middle[0] - 1.2)])  # the unit of length; refined with the images
        return np.concatenate(out)

    D = focal / 16
    cams = [(0, -D * np.cos(e), D * np.sin(e) + 0.6, e, 0) for e in np.radians((45, 30, 18))]
    x0 = np.concatenate(
        [
            np.delete(np.ravel(cams), 5),
            [0.9, 0, 1.2, 1.15],
            np.radians([85, 170, 250, -190]),
            [1.9, 2.3],
        ]
    )
    fit = least_squares(residuals, x0, x_scale="jac", max_nfev=400)
    rms = float(np.sqrt(np.mean(residuals(fit.x)[: 2 * len(middles)] ** 2)))
    return unpack(fit.x)[0], rms


# ---------------------------------------------------------------- stage 2: images
SCALARS = ("focal", "height", "offset", "floor", "falloff", "gray_light")
STEP = dict(
    focal=0.5,
    floor=1,
    ring_color=1,
    falloff=0.005,
    albedo=2,
    light=0.02,
    gray_light=0.05,
    roll=0.03,
)
LAYERS = dict(
    focal="bro",
    camera="bro",
    height="ro",
    offset="ro",
    pitch="ro",
    azimuth="ro",
    ring="b",
    floor="b",
    ring_color="b",
    falloff="b",
    base="r",
    pillar="r",
    head="r",
    rod="r",
    gray_light="r",
    gap="ro",
)  # everything else: the object
ONLY = dict(
    shape=(1, 2), albedo=(0, 3), camera=(3, 5), ring_color=(4, 3), size=(2, 2), gap=(2, 1)
)  # factor, numbers per value


def first_guess(p):
    "What the landmarks do not tell, roughly."
    return p | dict(
        floor=52.0,
        falloff=0.0,
        ring_color=np.array([[92, 68, 140], [70, 98, 92], [105, 75, 82.0]]),
        gray_light=1.0,
        base=np.array([0.3, 0, 0.1, 75, 75]),
        pillar=np.array([0.13, 0, 1.3, 100, 70]),
        head=np.array([0.15, -0.12, 0.11, 80, 80]),
        rod=np.array([0.03, 0.05, 100, 60]),
        shape=np.tile([0.3, 0.6], (6, 1)),
        size=np.array([[0.62, 0.62], [1, 1]]),
        gap=np.zeros(2),
        roll=np.zeros(2),
        aside=np.zeros(2),
        light=np.array([0.5, 0, -0.1, 0.7, 0.35]),
        albedo=np.array(
            [
                [230, 230, 230],
                [39, 160, 39],
                [255, 5, 5],
                [45, 115, 220],
                [90, 55, 45],
                [120, 118, 50.0],
            ]
        ),
    )


def objects(p, f, ss=3):
    "The objects as full images: color [n, 3, 64, 64], coverage [n, 64, 64], in front [n]."
    rgb, A, front = (
        np.zeros((len(f), 3, 64, 64), "f4"),
        np.zeros((len(f), 64, 64), "f4"),
        np.zeros(len(f), bool),
    )
    for s in range(6):
        for z in range(2):
            i = np.flatnonzero((f[:, 1] == s) & (f[:, 2] == z))
            if len(i):
                C, a, x0, y0, front[i] = arms._object(
                    p, s, z, f[i, 0], f[i, 3], f[i, 5], f[i, 6], ss
                )
                k = np.arange(a.shape[1])
                at = i[:, None, None], y0[:, None, None] + k[:, None], x0[:, None, None] + k
                A[at], rgb.transpose(0, 2, 3, 1)[at] = a, C.transpose(0, 2, 3, 1)
    return rgb, A, front


def robots(p, f):
    "The robots as full images; those before the same camera at the same azimuth share a pillar."
    u, which = np.unique(f[:, [3, 6]], axis=0, return_inverse=True)
    body = tuple(x[which.ravel()] for x in arms._pillar(p, u[:, 0], u[:, 1], 3))
    return arms._arm(p, f[:, 2], f[:, 3], f[:, 5], f[:, 6], body)


def layers(p, f, which="bro", old=None):
    "Backdrop, robot and object of every image; those not in `which` are taken from `old`."
    b = arms.backdrop(p, f[:, 3], f[:, 4], 3) if "b" in which else old[0]
    r = robots(p, f) if "r" in which else old[1]
    return b, r, objects(p, f) if "o" in which else old[2]


def merge(b, r, o):
    "Paint the three layers in the right order, [n, 3, 64, 64]."
    G, A, C, O, F = r[0][:, None], r[1][:, None], o[0], o[1][:, None], o[2][:, None, None, None]
    return np.where(F, C + (1 - O) * (G + (1 - A) * b), G + (1 - A) * (C + (1 - O) * b))


def moved(p, places, x):
    "Parameters with new numbers at `places`, a list of (name, position)."
    p = p | {k: np.array(p[k], float) for k in {k for k, _ in places}}
    for (k, i), value in zip(places, x, strict=True):
        p[k].flat[i] = value
    return p | {k: float(p[k]) for k in SCALARS}


def touched(F, name, i):
    "The images that number `i` of a parameter can change."
    if name not in ONLY:
        return np.arange(len(F))
    k, per = ONLY[name]
    return np.flatnonzero(F[:, k] == i // per)


def levenberg(p, names, F, X, iterations):
    """Least squares over pixels by Levenberg-Marquardt; derivatives from steps large enough to
    cross a few rays."""
    fixed = {
        ("camera", 5),
        ("size", 2),
        ("size", 3),
    }  # the world may turn about z, and sizes are relative to the large one
    places = [(k, i) for k in names for i in range(np.size(p[k])) if (k, i) not in fixed]
    old, damping = layers(p, F), 1e-3
    r = merge(*old) - X
    for it in range(iterations):
        J = np.zeros((len(places), r.size), "f4").reshape(len(places), *r.shape)
        x = np.array([np.asarray(p[k], float).flat[i] for k, i in places])
        for row, (k, i), value in zip(J, places, x, strict=True):
            step, sel = STEP.get(k, 0.01) if abs(value) < 20 else STEP.get(k, 2), touched(F, k, i)
            if len(sel):
                mine = [old[0][sel], tuple(e[sel] for e in old[1]), tuple(e[sel] for e in old[2])]
                up, down = (
                    merge(
                        *layers(moved(p, [(k, i)], [value + e]), F[sel], LAYERS.get(k, "o"), mine)
                    )
                    for e in (step, -step)
                )
                row[sel] = (up - down) / (2 * step)
        J = J.reshape(len(places), -1)
        JJ, g, before = (J @ J.T).astype(float), (J @ r.ravel()).astype(float), float((r**2).mean())
        for _ in range(6):
            new = moved(
                p, places, x - np.linalg.solve(JJ + damping * np.diag(np.diag(JJ) + 1e-6), g)
            )
            trial = layers(new, F)
            after = float(((merge(*trial) - X) ** 2).mean())
            if after < before:
                break
            damping *= 10
        else:
            break
        p, old, damping = new, trial, max(damping / 5, 1e-6)
        r = merge(*old) - X
        print(
            f"  {len(places)} numbers, iteration {it + 1}: mean squared error {after:.2f}, mean "
            f"error {np.abs(r).mean():.3f}",
            flush=True,
        )
        if after > 0.998 * before:
            break
    return p


def fit(p, F, X):
    "From the first guess to the published parameters."
    look, robot = (
        ["shape", "size", "albedo", "ring_color", "floor", "falloff"],
        ["rod", "head", "pillar", "base", "gray_light"],
    )
    light = ["light", "gap", "roll", "aside"]
    p = levenberg(p, look, F, X, 3)
    p = levenberg(p, [*robot, "height", "offset"], F, X, 4)
    p = levenberg(p, ["shape", "size", "albedo", *light], F, X, 4)
    return levenberg(
        p,
        ["focal", "camera", "height", "offset", "pitch", "azimuth", "ring", *look, *robot, *light],
        F,
        X,
        10,
    )


# ---------------------------------------------------------------- evaluation
def overlap(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


def evaluate(X, F, which):
    "Errors of arms.render on some frames of the sweeps: overall, per set and factor."
    error, iou = {}, {}
    for name in START:
        img = arms.render(arms.index(F[name][which].reshape(-1, 7)))
        real, f = X[name][which].reshape(-1, 3, 64, 64), F[name][which].reshape(-1, 7)
        e = np.abs(img.astype(float) - real).mean((1, 2, 3)).reshape(-1, 7)
        same = (
            f[:, 0] == START[name][0]
        )  # only where the object has the base image's color, which the mask knows
        o = [
            overlap(object_mask(a, name), object_mask(b, name)) if k else np.nan
            for a, b, k in zip(img, real, same, strict=True)
        ]
        error[name], iou[name] = e, np.array(o).reshape(-1, 7)
    e, o = (np.stack([d[n] for n in START]) for d in (error, iou))  # [2, frames, 7]
    large = np.stack([F[n][which][:, :, 2] for n in START]) == 1
    per = lambda a: {n: round(float(np.nanmean(a[:, :, k])), 4) for k, n in enumerate(NAMES)}  # noqa: E731
    return dict(
        frames=int(e.size),
        rgb_error=round(float(e.mean()), 4),
        rgb_error_by_factor=per(e),
        rgb_error_worst=round(float(e.max()), 4),
        iou=round(float(np.nanmean(o)), 4),
        iou_by_factor=per(o),
        iou_worst=round(float(np.nanmin(o)), 4),
        iou_large=round(float(np.nanmean(o[large])), 4),
        iou_small=round(float(np.nanmean(o[~large])), 4),
    )


def by_region(p, X, F, which):
    "Where the error is: share of pixels, mean error in it, and its part of the total."
    f = np.concatenate([F[n][which].reshape(-1, 7) for n in START])
    real = np.concatenate([X[n][which].reshape(-1, 3, 64, 64) for n in START])
    e = np.abs(arms.render(arms.index(f)).astype(float) - real).mean(1)
    b, (_, A), (_, O, _) = layers(p, f)
    wide = lambda m: (
        np.max([np.roll(m, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0) > 0
    )  # noqa: E731
    obj = wide(O)
    robot = wide(A) & ~obj
    ring = (np.abs(b - p["floor"]).max(1) > 1) & ~obj & ~robot
    regions = {"object": obj, "robot": robot, "ring": ring, "floor": ~(obj | robot | ring)}
    return {
        k: dict(
            pixels=round(float(m.mean()), 4),
            error=round(float(e[m].mean()), 3),
            part=round(float((e * m).mean()), 4),
        )
        for k, m in regions.items()
    }


def naive(X, F):
    """Errors to compare with: the base image of the set for every frame; the even frame before it
    for every odd one."""
    base, before = [], []
    for n in START:
        x = X[n].astype(float)
        base.append(np.abs(x[1::2] - x[0, 0]).mean())
        before.append(np.abs(x[1::2] - x[0::2]).mean())
    return dict(
        base_image=round(float(np.mean(base)), 4), frame_before=round(float(np.mean(before)), 4)
    )


def picture(X, F, out):
    "Real frame, ours, difference, side by side; odd frames."
    from genmix import plots

    show = (
        ("toy1", 0, 1),
        ("toy1", 1, 7),
        ("toy1", 1, 1),
        ("toy1", 3, 1),
        ("toy1", 5, 13),
        ("toy1", 6, 17),
        ("toy2", 0, 13),
        ("toy2", 1, 5),
        ("toy2", 3, 5),
        ("toy2", 5, 5),
        ("toy2", 5, 9),
        ("toy2", 6, 13),
    )
    rows, titles = [[], [], []], []
    for name, k, t in show:
        real, ours = X[name][t, k], arms.render(arms.index(F[name][t, k]))[0]
        for row, img in zip(
            rows, (real, ours, np.abs(real.astype(int) - ours).astype(np.uint8)), strict=True
        ):
            row.append(img)
        titles.append(f"{NAMES[k]} {arms.VALUES[NAMES[k]][F[name][t, k][k]]}")
    grid = [np.concatenate([np.stack(row[i : i + 6]) for row in rows]) for i in (0, 6)]
    blank = [""] * 12
    fig = plots.image_grid(
        np.concatenate(grid),
        ncols=6,
        titles=titles[:6] + blank + titles[6:] + blank,
        width=8,
        row_labels=["real", "ours", "difference"] * 2,
    )
    plots.caption(
        fig,
        "Real: toy frames, rr-learning/disentanglement_dataset (CC BY 4.0), held out. Ours: arms "
        "(synthetic).",
    )
    plots.save(fig, out, dpi=130)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, tmp = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    with os.fdopen(fd, "w", encoding="utf-8") as f:
        f.write(text)
    os.chmod(tmp, 0o644)
    os.replace(tmp, path)


def rounded(v):
    return [rounded(x) for x in v] if isinstance(v, (list, np.ndarray)) else round(float(v), 5)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--real", required=True, type=Path, help="folder that holds mpi3d/gif_frames.npz"
    )
    parser.add_argument(
        "--check-start",
        action="store_true",
        help="only refit the landmarks with other starting values of the motions",
    )
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="keep the published parameters; only measure and draw again",
    )
    a = parser.parse_args()
    raw = (a.real / "mpi3d" / "gif_frames.npz").read_bytes()
    with np.load(io.BytesIO(raw), allow_pickle=False) as z:
        X = {n: z[n].transpose(0, 1, 4, 2, 3) for n in START}  # [20, 7, 3, 64, 64]
    F, began = {n: sweeps(s) for n, s in START.items()}, time.perf_counter()
    middles, ring = landmarks(X, F)
    if a.check_start:
        for shift in [(0, 0, 0, 0)] + [
            tuple(np.eye(4, dtype=int)[k] * s) for k in range(4) for s in (-1, 1)
        ]:
            print(
                "shift of h, v (toy1), h, v (toy2):",
                tuple(map(int, shift)),
                f"middles off by {fit_landmarks(middles, ring, shift)[1]:.3f} pixels",
            )
        return
    p, rms = fit_landmarks(middles, ring)
    print(f"landmarks: middles of {len(middles)} objects off by {rms:.3f} pixels", flush=True)
    if a.evaluate:
        p = arms.parameters()
    else:
        f = np.concatenate([F[n][0::2].reshape(-1, 7) for n in START])
        x = np.concatenate([X[n][0::2].reshape(-1, 3, 64, 64) for n in START]).astype("f4")
        numbers, which = np.unique(arms.index(f), return_inverse=True)
        mean = np.stack([x[which == k].mean(0) for k in range(len(numbers))])
        print(f"images: {len(f)} even frames show {len(numbers)} different images", flush=True)
        p = fit(first_guess(p), arms.factors(numbers), mean)
    p = {k: rounded(v) for k, v in p.items()}
    arms.published = lambda: {"parameters": p}  # so that arms.render draws with the new parameters
    for cache in (arms._backdrops, arms._robots):
        cache.cache_clear()
    odd, even = slice(1, 20, 2), slice(0, 20, 2)
    held = evaluate(X, F, odd)
    seen = {int(i) for n in START for i in arms.index(F[n][even].reshape(-1, 7))}
    moving = [
        (n, t, k)
        for n in START
        for k in range(7)
        for t in range(1, 20, 2)
        if int(arms.index(F[n][t, k])[0]) not in seen
    ]
    unseen = np.array(
        [
            [
                np.abs(arms.render(arms.index(F[n][t, k]))[0].astype(float) - X[n][t, k]).mean(),
                overlap(
                    object_mask(arms.render(arms.index(F[n][t, k]))[0], n),
                    object_mask(X[n][t, k], n),
                )
                if k
                else np.nan,
            ]
            for n, t, k in moving
        ]
    )
    held["never_fitted"] = dict(
        frames=len(moving),
        rgb_error=round(float(unseen[:, 0].mean()), 4),
        iou=round(float(np.nanmean(unseen[:, 1])), 4),
        what="odd frames whose combination of factors is in no even frame",
    )
    held["by_region"] = by_region(arms.parameters(), X, F, odd)
    held["naive"] = naive(X, F)
    provenance = {
        "data": "one-factor sweeps of MPI3D's toy set (sets toy1 and toy2), from the GIF "
        "animations in"
        " rr-learning/disentanglement_dataset, CC BY 4.0",
        "file": "mpi3d/gif_frames.npz",
        "sha256": hashlib.sha256(raw).hexdigest(),
        "split": "even frames fitted, odd frames evaluated; errors are mean |difference| of 8-bit "
        "RGB over all pixels and channels",
        "mask": "object pixels by one color rule (blue or red, or nearly black) applied to the "
        "real and the drawn image alike;"
        " white, green, brown and olive objects are not counted",
        "factors": "sequence of disentanglement_lib's cycle_factor; starting values of the motions "
        "from the landmarks",
        "start": {n: list(s) for n, s in START.items()},
        "landmark_rms_pixels": round(rms, 4),
        "seeds": "none, the fit is deterministic",
        "genmix": genmix.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "command": "OMP_NUM_THREADS=1 python tools/fit_arms.py --real DIR",
    }
    result = {
        "provenance": provenance,
        "errors": {"held_out": held, "fitted": evaluate(X, F, even)},
        "parameters": p,
    }
    write(ROOT / "genmix" / "published" / "arms.json", json.dumps(result, indent=1) + "\n")
    picture(X, F, ROOT / "nbs" / "images" / "arms_real.png")
    print(json.dumps(result["errors"], indent=1))
    print(f"{time.perf_counter() - began:.0f} seconds")


if __name__ == "__main__":
    main()
