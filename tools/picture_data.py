"""Draw nbs/images/data_real.png: a row of real pictures from every set that is at hand.

    python tools/picture_data.py --root FOLDER

FOLDER is a data folder as `genmix data list --root FOLDER` understands it. Of sets with factors it
may hold samples instead of the large official files: dsprites/dsprites_real_sample.npz (index,
packed), shapes3d/notebook_100.npz and mpi3d/gif_frames.npz. What is not there is left out, and
said.
"""

import argparse
from pathlib import Path

import numpy as np

from genmix import data, plots
from genmix.readers import files

N = 10  # pictures in a row


def loaded(name, **how):
    def row(root):
        d = data.load(name, "all", root, progress=False)
        d = d.subset(data.stratified(d.y, N, seed=1))
        return d.x[:], d.describe(), d.origin

    return row


def dsprites_sample(root):
    d = files.read_npz(Path(root) / "dsprites" / "dsprites_real_sample.npz")
    rows = np.random.default_rng(1).choice(len(d["index"]), N, replace=False)
    x = np.unpackbits(d["packed"][rows].reshape(N, -1), axis=1)[:, : 64 * 64].reshape(
        N, 1, 64, 64
    ) * np.uint8(255)
    return x, f"a sample of {len(d['index']):,} official images", "sample"


def shapes3d_sample(root):
    x = next(iter(files.read_npz(Path(root) / "shapes3d" / "notebook_100.npz").values()))
    return (
        np.moveaxis(x[50 : 50 + N], -1, 1),
        "images shown in the official repository's notebook",
        "sample",
    )


def mpi3d_sample(root):
    d = files.read_npz(Path(root) / "mpi3d" / "gif_frames.npz")
    x = next(a for k, a in d.items() if "toy" in k)  # [20, 7, 64, 64, 3]
    frames = x[np.linspace(0, 19, N).astype(int), np.arange(N) % 7]
    return (
        np.moveaxis(frames, -1, 1),
        "frames of the official animation (toy), palette colors",
        "animation",
    )


ROWS = {
    "MNIST": loaded("mnist"),
    "Fashion-MNIST": loaded("fashion"),
    "CIFAR-10": loaded("cifar-color"),
    "QuickDraw,\nstrokes": loaded("quickdraw:all"),
    "QuickDraw,\nbitmaps": loaded("quickdraw-bitmap:all"),
    "dSprites": dsprites_sample,
    "Shapes3D": shapes3d_sample,
    "MPI3D": mpi3d_sample,
}


def tile(x):
    "uint8 [n, C, H, W] -> [n, 3, 64, 64], enlarged by a whole number, without smoothing."
    k = 64 // x.shape[2]
    x = np.repeat(np.repeat(x, k, axis=2), k, axis=3)
    pad = 64 - x.shape[2]
    return np.pad(
        np.broadcast_to(x, (len(x), 3, *x.shape[2:])),
        ((0, 0), (0, 0), (pad // 2, pad - pad // 2), (pad // 2, pad - pad // 2)),
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True)
    args = parser.parse_args()
    rows = {}
    for name, read in ROWS.items():
        try:
            x, said, origin = read(args.root)
        except data.DataError as e:
            print(f"{name.replace(chr(10), chr(32))}: left out ({e})"[:160])
            continue
        rows[f"{name}\n({origin})"] = tile(x)
        print(f"{name.replace(chr(10), chr(32))}: {said}")
    fig = plots.image_grid(
        np.concatenate(list(rows.values())), ncols=N, row_labels=list(rows), width=8
    )
    plots.caption(
        fig,
        "real pictures; in brackets the origin: official set, subset in its layout, sample of it, "
        "or animation; seed 1",
    )
    print(
        plots.save(
            fig,
            Path(__file__).resolve().parent.parent / "nbs" / "images" / "data_real.png",
            dpi=110,
        ).name
    )


if __name__ == "__main__":
    main()
