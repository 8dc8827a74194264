"""Chapter 00d: what it costs to check what one reads.

    OMP_NUM_THREADS=1 python -m benchmarks.readers [--pairs 5] [--drawings 75000] [--json FILE]

Every reader reads files that this program writes to a temporary folder in the official layouts,
random or made by a formula, and the baseline named beside it reads the same files without the
checks. A and B alternate; medians of the times, and the median of the pairs' ratios. What both
return is compared first. Times are with the files in the disk cache.
"""

import argparse
import gzip
import io
import json
import os
import pickle
import platform
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

from benchmarks.common import in_turns  # first: it sets the number of threads

import numpy as np

from genmix import __version__
from genmix.readers import files


def python2_pickle(drawings):
    """An array of objects as Python 2's cPickle and NumPy wrote it for sketch-rnn: int16 tables,
    protocol 2."""

    def put(i):
        return b"q" + bytes([i]) if i < 256 else b"r" + struct.pack("<I", i)

    def short(n):
        return (
            b"K" + bytes([n])
            if n < 256
            else b"M" + struct.pack("<H", n)
            if n < 65536
            else b"J" + struct.pack("<i", n)
        )

    def dtype(name, tail):
        return b"U\x02" + name + b"K\x00K\x01\x87R" + tail

    out = [
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01",
        short(len(drawings)),
        b"\x85cnumpy\ndtype\nq\x04",
        dtype(b"O8", b"q\x05(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]q\x06"),
    ]
    for start in range(0, len(drawings), 1000):
        out.append(b"(")
        for i in range(start, min(start + 1000, len(drawings))):
            d = np.ascontiguousarray(drawings[i], dtype="<i2")
            kind = (
                b"h\x08"
                if i
                else b"h\x04"
                + dtype(b"i2", b"q\x08(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
            )
            raw = d.tobytes()
            text = (
                b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))
            )
            out += [
                b"h\x01h\x02K\x00\x85U\x01b\x87R",
                put(9 + i),
                b"(K\x01",
                short(len(d)),
                b"K\x03\x86",
                kind,
                b"\x89",
                text,
                raw,
                b"tb",
            ]
        out.append(b"e")
    return b"".join(out) + b"tb."


def npy_header(shape, descr):
    "The first bytes of an npy file."
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    text += " " * (-(len(text) + 11) % 16) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def write_sketches(path, sizes, seed=0):
    "A sketch-rnn archive as Python 2 wrote it; `sizes`: drawings in train, valid, test."
    rng = np.random.default_rng(seed)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for key, n in zip(("train", "valid", "test"), sizes, strict=True):
            length = rng.integers(20, 70, n)
            table = np.column_stack(
                [rng.integers(-40, 40, (length.sum(), 2)), rng.random(length.sum()) < 0.1]
            ).astype(np.int16)
            drawings = np.split(table, length.cumsum()[:-1])
            z.writestr(f"{key}.npy", npy_header((n,), "|O") + python2_pickle(drawings))


def write_idx(path, images):
    "A gzipped idx file."
    path.write_bytes(
        gzip.compress(
            bytes([0, 0, 8, images.ndim])
            + struct.pack(f">{images.ndim}I", *images.shape)
            + images.tobytes(),
            6,
        )
    )


def write_cifar(path, rows=10_000, seed=0):
    "CIFAR-10's archive with random images: pickles of protocol 2 with bytes for keys."
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w:gz", compresslevel=1) as t:
        for name in files.CIFAR:
            value = {b"label_names": [b"class %d" % i for i in range(10)]}
            if name != files.CIFAR[0]:
                value = {
                    b"data": rng.integers(0, 256, (rows, 3072), dtype=np.uint8),
                    b"labels": rng.integers(0, 10, rows).tolist(),
                    b"filenames": [b"image_%05d.png" % i for i in range(rows)],
                }
            raw = pickle.dumps(value, protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            t.addfile(info, io.BytesIO(raw))


def strokes(rng, n):
    "Images that compress as drawings do: a few bright lines on black."
    x = np.zeros((n, 28, 28), np.uint8)
    for r in range(4, 24, 4):
        x[:, r, 6:22] = rng.integers(0, 256, (n, 16))
    return x


class Shorter(pickle._Unpickler):
    """The shorter restricted reader: the standard library's machine in Python, with NumPy's own
    constructors let through."""

    def find_class(self, module, name):
        if (module, name) not in files.NAMES:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


# ---- the baselines: the same file without the checks
def load_idx(path):
    return np.frombuffer(gzip.open(path).read(), np.uint8, offset=16).reshape(-1, 28, 28)


def load_sketches(path):
    with np.load(path, allow_pickle=True, encoding="latin1") as z:
        return {k: list(z[k]) for k in ("train", "valid", "test")}


def load_shorter(path):
    found = {}
    with zipfile.ZipFile(path) as z:
        for k in ("train", "valid", "test"):
            raw = io.BytesIO(z.read(f"{k}.npy"))
            np.lib.format.read_magic(raw), np.lib.format.read_array_header_1_0(raw)
            found[k] = list(Shorter(raw, encoding="latin1").load())
    return found


def load_npz(path):
    with np.load(path) as z:
        return {k: z[k] for k in z.files}


def load_cifar(path):
    x = {}
    with tarfile.open(path) as t:
        for m in t:
            d = pickle.load(t.extractfile(m), encoding="bytes")
            if b"data" in d:
                x[m.name] = d[b"data"].reshape(-1, 3, 32, 32)
    return np.concatenate([x[n] for n in files.CIFAR[1:]])


def load_ndjson(path):
    with open(path) as f:
        return [[np.array(s, np.int16) for s in json.loads(line)["drawing"]] for line in f]


def load_grid(path):
    with np.load(path) as z:
        return z["imgs"]


def load_h5(path):
    import h5py

    with h5py.File(path, "r") as f:
        return f["images"][:]


def load_folder(path):
    from PIL import Image

    return np.stack(
        [
            np.asarray(Image.open(p).convert("L").resize((28, 28), Image.Resampling.LANCZOS))
            for p in sorted(Path(path).rglob("*.png"))
        ]
    )


def grid(path, kind, shape):
    "All blocks of a grid, counted and forgotten, as a conversion would."
    return sum(len(b) for b in files.open_grid(path, kind, shape).blocks())


def write_grids(folder, rng):
    """dSprites with half of its positions and Shapes3D with two hues of each, random; sizes of the
    files are stated in the table."""
    shape = (3, 6, 40, 16, 8, 64, 64)
    labels = np.column_stack(
        [
            np.zeros(np.prod(shape[:5]), int),
            *np.unravel_index(np.arange(np.prod(shape[:5])), shape[:5]),
        ]
    )
    images = np.zeros((len(labels), 64, 64), np.uint8)
    images[:, 20:40, 20:40] = rng.integers(0, 2, (len(labels), 20, 1))
    np.savez_compressed(folder / "dsprites.npz", imgs=images, latents_classes=labels)
    import h5py

    shape3 = (2, 2, 2, 8, 4, 15, 64, 64, 3)
    n = int(np.prod(shape3[:6]))
    with h5py.File(folder / "rooms.h5", "w") as f:
        f.create_dataset(
            "images",
            data=np.tile(rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), (1, 8, 8, 1)),
            chunks=(64, 64, 64, 3),
            compression="gzip",
        )
        f["labels"] = np.column_stack(np.unravel_index(np.arange(n), shape3[:6])).astype(float)
    return shape, shape3


def same(a, b):
    "Do a reader and its baseline return equal arrays?"
    np.testing.assert_array_equal(np.concatenate(a), np.concatenate(b))
    assert [len(x) for x in a] == [len(x) for x in b]


def sketches(folder, drawings):
    path, name = folder / "drawings.npz", f"sketch-rnn ({drawings:,})"
    write_sketches(path, (drawings - 2 * (drawings // 30), drawings // 30, drawings // 30))
    mine, theirs = files.read_sketches(path), load_sketches(path)
    for k in theirs:
        same(mine[k], theirs[k])
    yield (
        name,
        drawings,
        lambda: files.read_sketches(path),
        "np.load(allow_pickle)",
        lambda: load_sketches(path),
    )
    yield (
        name,
        drawings,
        lambda: files.read_sketches(path),
        "subclass of pickle._Unpickler",
        lambda: load_shorter(path),
    )


def arrays(folder, drawings):
    rng, idx, npz = np.random.default_rng(0), folder / "images.gz", folder / "arrays.npz"
    write_idx(idx, strokes(rng, 60_000))
    np.savez_compressed(npz, a=strokes(rng, 20_000))
    np.testing.assert_array_equal(files.read_idx(idx)[0], load_idx(idx))
    yield (
        "idx (MNIST's 60,000)",
        60_000,
        lambda: files.read_idx(idx),
        "gzip + np.frombuffer",
        lambda: load_idx(idx),
    )
    yield "npz, compressed", 20_000, lambda: files.read_npz(npz), "np.load", lambda: load_npz(npz)


def lines(folder, drawings):
    rng, path = np.random.default_rng(1), folder / "lines.ndjson"
    line = {
        "word": "square",
        "recognized": True,
        "drawing": [rng.integers(0, 256, (2, 12)).tolist() for _ in range(4)],
    }
    path.write_text((json.dumps(line) + "\n") * 20_000)
    yield (
        "ndjson (20,000)",
        20_000,
        lambda: files.read_ndjson(path),
        "json + np.array",
        lambda: load_ndjson(path),
    )


def cifar(folder, drawings):
    path = folder / "cifar.tar.gz"
    write_cifar(path)
    c = files.read_cifar(path)
    np.testing.assert_array_equal(np.concatenate([c["train"][0], c["test"][0]]), load_cifar(path))
    yield (
        "CIFAR-10 (60,000)",
        60_000,
        lambda: files.read_cifar(path),
        "tarfile + pickle",
        lambda: load_cifar(path),
    )


def grids(folder, drawings):
    shape, shape3 = write_grids(folder, np.random.default_rng(2))
    a, b, n, n3 = (
        folder / "dsprites.npz",
        folder / "rooms.h5",
        int(np.prod(shape[:5])),
        int(np.prod(shape3[:6])),
    )
    yield (
        f"dSprites npz ({n:,})",
        n,
        lambda: grid(a, "dsprites", shape),
        "np.load, all in memory",
        lambda: load_grid(a),
    )
    yield (
        f"Shapes3D h5 ({n3:,})",
        n3,
        lambda: grid(b, "shapes3d", shape3),
        "h5py, all in memory",
        lambda: load_h5(b),
    )


def pictures(folder, drawings):
    from PIL import Image

    rng = np.random.default_rng(3)
    for i in range(1000):
        (folder / "mine" / str(i % 10)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
            folder / "mine" / str(i % 10) / f"{i}.png"
        )
    assert len(files.read_folder(folder / "mine")[0]) == 1000
    yield (
        "folder of png (1,000)",
        1000,
        lambda: files.read_folder(folder / "mine"),
        "pillow",
        lambda: load_folder(folder / "mine"),
    )


FORMATS = {
    "idx": arrays,
    "sketch-rnn": sketches,
    "ndjson": lines,
    "CIFAR-10": cifar,
    "grids": grids,
    "folder": pictures,
}


def measured(
    pairs=5, budget=0.0, quick=False, drawings=75_000, formats=("sketch-rnn", "idx", "grids")
):
    """What is compared -> its ratios, one after the other: seconds of ours over those of the
    baseline, a cost and not a gain."""
    drawings, formats = (3000, formats[:1]) if quick else (drawings, formats)
    for f in formats:
        with tempfile.TemporaryDirectory() as tmp:
            for name, n, ours, label, theirs in FORMATS[f](Path(tmp), drawings):
                r = in_turns(ours, theirs, pairs, budget / 2 / len(formats))
                yield (
                    f"{name.partition(' (')[0]}, {label}",
                    {**r, "format": name, "items": n, "baseline": label},
                )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--drawings", type=int, default=75_000)
    parser.add_argument("--json", type=Path, help="write the table to this file as well")
    a = parser.parse_args()
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, "
        f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
    )
    machine += f", Python {platform.python_version()}, numpy {np.__version__}"
    print(f"{machine}; {a.pairs} interleaved pairs, medians")
    print(
        f"{'format':24} {'items/s':>10} {'seconds':>8}   {'baseline':30} {'seconds':>8} "
        f"{'ratio ours/baseline':>20}"
    )
    rows = []
    for _, r in measured(a.pairs, drawings=a.drawings, formats=tuple(FORMATS)):
        print(
            f"{r['format']:24} {r['items'] / r['slow']:10,.0f} {r['slow']:8.3f}   "
            f"{r['baseline']:30} {r['fast']:8.3f} {r['median']:8.2f} "
            f"({r['least']:.2f}-{r['largest']:.2f})",
            flush=True,
        )
        rows.append(
            {
                "format": r["format"],
                "items": r["items"],
                "seconds": round(r["slow"], 3),
                "baseline": r["baseline"],
                "baseline_seconds": round(r["fast"], 3),
                "ratio": round(r["median"], 2),
            }
        )
    if a.json:
        provenance = {
            "data": "files written by the program itself in the official layouts (synthetic)",
            "genmix": __version__,
            "machine": machine,
            "what": f"seconds to read each, files in the disk cache; medians of {a.pairs} "
            "interleaved pairs",
            "command": "python -m benchmarks.readers --json genmix/published/files.json",
        }
        part = a.json.with_name(a.json.name + ".part")
        part.write_text(
            json.dumps({"provenance": provenance, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )
        os.replace(part, a.json)


if __name__ == "__main__":
    main()
