"""The large sets from their files to random batches: time, memory and images per second.

    OMP_NUM_THREADS=1 python -m benchmarks.large_sets --folder DIR
        [--sets dsprites shapes3d mpi3d] [--json FILE]

The official files (up to 12.7 GB unpacked) need not be at hand: files in their layout and of their
full size are written first, with images of `genmix.worlds.sprites`, `rooms` and `arms`, unless DIR
holds them already. Then, in a process of its own, `load` converts each into the cache (which is
removed again), and random batches are read. The peak is the process's largest resident memory when
the conversion is done. The baseline is holding the unpacked images in memory: their size is printed
beside the peak. Needs 16 GB of free disk.
"""

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from genmix import __version__, data
from genmix.worlds import arms, rooms, sprites

STEP = 2048


def drawn(world, N):
    for a in range(0, N, STEP):
        yield np.ascontiguousarray(
            np.moveaxis(world.render(np.arange(a, min(N, a + STEP))), 1, -1)
        )  # [b, 64, 64, C]


def write_npz(path, name, shape, blocks, **more):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1, allowZip64=True) as z:
        with z.open(name + ".npy", "w", force_zip64=True) as f:
            np.lib.format.write_array_header_1_0(
                f, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            for b in blocks:
                f.write(b.tobytes())
        for key, a in more.items():
            buffer = io.BytesIO()
            np.save(buffer, a)
            z.writestr(key + ".npy", buffer.getvalue())


def write_dsprites(path):
    f = np.insert(sprites.factors(np.arange(sprites.N)), 0, 0, axis=1)
    blocks = (b // 255 for b in drawn(sprites, sprites.N))
    write_npz(
        path, "imgs", (sprites.N, 64, 64), blocks, latents_classes=f, latents_values=f.astype(float)
    )


def write_shapes3d(path):
    import h5py

    N = 480_000
    with h5py.File(path, "w") as h:
        d = h.create_dataset(
            "images",
            (N, 64, 64, 3),
            "u1",
            chunks=(256, 64, 64, 3),
            compression="gzip",
            compression_opts=1,
        )
        for k, b in enumerate(drawn(rooms, N)):
            d[k * STEP : k * STEP + len(b)] = b
        h["labels"] = rooms.factors(np.arange(N)).astype(float)


def write_mpi3d(path):
    write_npz(path, "images", (*arms.FACTORS.values(), 64, 64, 3), drawn(arms, 1_036_800))


WRITE = {"dsprites": write_dsprites, "shapes3d": write_shapes3d, "mpi3d": write_mpi3d}


def measure(name, folder):
    "In this process: convert, open again, read."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    d = data.load(name, root=folder, progress=False)
    converted = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    d = data.load(name, root=folder, progress=False)
    opened, rng, speed = time.perf_counter() - start, np.random.default_rng(0), {}
    for B in (64, 256, 1024):
        start, n = time.perf_counter(), 0
        while time.perf_counter() - start < 3:
            d.x[rng.integers(len(d), size=B)]
            n += B
        speed[B] = round(n / (time.perf_counter() - start))
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "set": name,
        "images": len(d),
        "unpacked_gb": round(d.x.nbytes / 1e9, 2),
        "convert_s": round(converted, 1),
        "peak_mb": round(peak * unit / 1e6),
        "before_mb": round(before * unit / 1e6),
        "open_again_s": round(opened, 2),
        "images_per_s": speed,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="where the files are, or are written"
    )
    parser.add_argument("--sets", nargs="+", choices=WRITE, default=list(WRITE))
    parser.add_argument("--json", type=Path, help="write the results to this file as well")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.measure:
        return print(json.dumps(measure(a.measure, a.folder)))
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, "
        f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}, numpy {np.__version__}"
    )
    print(machine)
    rows = []
    for name in a.sets:
        path = a.folder / name / data.SETS[name].files[0].name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name("part-" + path.name)
            WRITE[name](part)
            os.replace(part, path)
        with tempfile.TemporaryDirectory(dir=a.folder) as cache:
            command = [
                sys.executable,
                "-m",
                "benchmarks.large_sets",
                "--folder",
                a.folder,
                "--measure",
                name,
            ]
            done = subprocess.run(
                list(map(str, command)),
                env={**os.environ, "GENMIX_CACHE": cache},
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
        r = json.loads(done.stdout)
        rows.append(r)
        print(
            f"{name:9} {r['images']:9,} images, {r['unpacked_gb']:5.2f} GB unpacked: converted in "
            f"{r['convert_s']:6.1f} s with at most {r['peak_mb']} MB "
            f"of memory, opened again in {r['open_again_s']:.2f} s; random batches: "
            + ", ".join(f"{v:,}/s at {k}" for k, v in r["images_per_s"].items()),
            flush=True,
        )
    if a.json:
        what = (
            "files in the official layouts and sizes, with images of genmix.worlds.sprites, rooms "
            "and arms (synthetic), packed by zip or gzip at level 1"
        )
        provenance = {
            "data": what,
            "genmix": __version__,
            "machine": machine,
            "command": "python -m benchmarks.large_sets --folder DIR --json FILE",
        }
        part = a.json.with_name(a.json.name + ".part")
        part.write_text(
            json.dumps({"provenance": provenance, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )
        os.replace(part, a.json)


if __name__ == "__main__":
    main()
