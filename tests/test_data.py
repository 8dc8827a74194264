"""One door to the data: where files lie, what is missing, splits, the real sets.

And fetching from a server that misbehaves. Nothing here needs a network or a data file. Tests of
real data run when GENMIX_DATA holds it, and are skipped with a message when it does not.
"""

import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from genmix import data
from genmix.readers import cache, files
from genmix.worlds import doodles, sprites
from genmix.data import DataError

GOOD = data.load("formants", seed=0).to_csv()


@pytest.fixture(autouse=True)
def no_data_folder(request, monkeypatch, tmp_path_factory):
    """No test sees the data on this machine, unless it asks for the `real` folder.

    What is converted goes to a folder of its own.
    """
    monkeypatch.setenv("GENMIX_CACHE", str(tmp_path_factory.mktemp("cache")))
    if "real" not in request.fixturenames:
        monkeypatch.delenv("GENMIX_DATA", raising=False)


def write(folder, text, name="mine.csv"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def listed(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# ---- small files in the official layouts


def idx(a):
    return (
        bytes([0, 0, 8, a.ndim])
        + b"".join(int(s).to_bytes(4, "big") for s in a.shape)
        + a.astype(np.uint8).tobytes()
    )


def mnist_files(n=60, seed=0):
    rng = np.random.default_rng(seed)
    arrays = [
        rng.integers(0, 256, (n, 28, 28)),
        np.arange(n) % 10,
        rng.integers(0, 256, (20, 28, 28)),
        np.arange(20) % 10,
    ]
    return {f.name.removesuffix(".gz"): idx(a) for f, a in zip(data.MNIST, arrays)}


def sketches(n, rng):
    lengths = rng.integers(3, 20, n)
    return [
        np.concatenate([rng.integers(-40, 40, (k, 2)), np.arange(k)[:, None] == k - 1], 1).astype(
            np.int16
        )
        for k in lengths
    ]


def sketch_file(path, counts=(30, 5, 5), seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for key, n in zip(("train", "valid", "test"), counts):
        arrays[key] = np.empty(n, object)
        arrays[key][:] = sketches(n, rng)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def cifar_file(path, n=20):
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w:gz") as tar:
        for name in ("batches.meta", *(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
            held = {
                b"data": rng.integers(0, 256, (n, 3072)).astype(np.uint8),
                b"labels": [k % 10 for k in range(n)],
            }
            if name == "batches.meta":
                held = {b"label_names": [c.encode() for c in data.CLASSES["cifar"]]}
            raw = pickle.dumps(held, protocol=2)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path


# ---- where files lie

VOWELS = [f"{p}/{n}" for p in ("vowels", "pb52", ".") for n in ("pb52_dataset.csv", "pb52.csv")]


@pytest.mark.parametrize("place", VOWELS)
@pytest.mark.parametrize("how", ["root", "environment"])
def test_layouts(tmp_path, monkeypatch, place, how):
    path = write(tmp_path, GOOD, place)
    if how == "environment":
        monkeypatch.setenv("GENMIX_DATA", str(tmp_path))
    root = tmp_path if how == "root" else None
    assert list(data.find("vowels", root).values()) == [path]
    d = data.load("auto", root=root)
    assert Path(d.source) == path and d.origin == "user" and d.name == "vowels"
    assert path.name in d.describe() and "not the official" in d.describe()


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "."])
@pytest.mark.parametrize("packed", [True, False])
def test_mnist_wherever_it_lies(tmp_path, folder, packed):
    for name, raw in mnist_files().items():
        write(tmp_path, gzip.compress(raw) if packed else raw, f"{folder}/{name}{'.gz' * packed}")
    d = data.load("mnist", root=tmp_path)
    assert d.x.shape == (50, 1, 28, 28) and d.origin == "user" and d.split == "train"
    assert [
        len(data.load("mnist", s, tmp_path))
        for s in ("validation", "test", "train+validation", "all")
    ] == [10, 20, 60, 80]
    parts = [set(data.load("mnist", s, tmp_path).rows.tolist()) for s in data.PARTS]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_flat_files_that_are_known_to_be_another_sets_are_passed_over(tmp_path, monkeypatch):
    made = mnist_files()
    known = tuple(
        replace(f, content=hashlib.md5(raw).hexdigest())
        for f, raw in zip(data.FASHION, made.values())
    )
    monkeypatch.setitem(data.SETS, "fashion", replace(data.SETS["fashion"], files=known))
    for name, raw in made.items():
        write(tmp_path, raw, name)
    assert data.find("mnist", tmp_path) == {} and len(data.find("fashion", tmp_path)) == 4
    assert data.load("fashion", root=tmp_path).origin == "official"
    with pytest.raises(DataError, match="mnist not found"):
        data.load("mnist", root=tmp_path)


def test_a_damaged_mnist(tmp_path):
    made = mnist_files()
    for name, raw in made.items():
        write(tmp_path, raw, name)
    images, labels = [tmp_path / n for n in made][:2]
    labels.write_bytes(idx(np.full(60, 10)))
    with pytest.raises(DataError, match="a label is 10"):
        data.load("mnist", root=tmp_path)
    labels.write_bytes(idx(np.zeros(59)))
    with pytest.raises(DataError, match="59 labels; expected as many as images: 60"):
        data.load("mnist", root=tmp_path)
    images.write_bytes(made[images.name][:-1])
    with pytest.raises(DataError, match=images.name):
        data.load("mnist", root=tmp_path)
    images.unlink()
    with pytest.raises(DataError, match="looked for train-images-idx3-ubyte.gz in"):
        data.load("mnist", root=tmp_path)


def test_root_may_be_the_file(tmp_path, monkeypatch):
    path = write(tmp_path, GOOD, "anything.csv")
    assert data.load("vowels", root=path).source == str(path)
    monkeypatch.setenv("GENMIX_DATA", str(path))
    assert data.load("vowels").source == str(path)


def test_data_root(monkeypatch, tmp_path):
    "The argument, else GENMIX_DATA, else the cache folder that the system provides for this."
    if os.name == "nt":
        monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
        assert data.data_root() == tmp_path / "genmix" / "Cache"
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(sys, "platform", "linux")
        assert data.data_root() == tmp_path / "genmix"
        monkeypatch.setattr(sys, "platform", "darwin")
        assert data.data_root().parts[-3:] == ("Library", "Caches", "genmix")
    monkeypatch.setenv("GENMIX_DATA", "there")
    assert data.data_root() == Path("there")
    assert data.data_root("here") == Path("here")


def test_missing_names_everything(tmp_path):
    with pytest.raises(DataError) as e:
        data.load("vowels", root=tmp_path)
    for words in (
        str(tmp_path),
        "pb52_dataset.csv",
        "genmix data fetch vowels",
        "GENMIX_DATA",
        "--data formants",
    ):
        assert words in str(e.value)
    for name, s in data.SETS.items():
        if s.files and name != "combined":
            with pytest.raises(
                DataError, match=f"{name} not found.*genmix data fetch {name}.*--data {s.stand_in}"
            ):
                data.load(name, root=tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        data.load("mnist", root=tmp_path / "nowhere")


def test_unknown_name():
    for name in ("vowles", "minst", ""):
        with pytest.raises(DataError, match="there are: vowels, mnist"):
            data.load(name)


@pytest.mark.parametrize(
    "bad",
    [
        dict(seed=-1),
        dict(seed=1.5),
        dict(n=0),
        dict(n="3"),
        dict(n=True),
        dict(split="tset"),
        dict(split=""),
        dict(n=10**6),
    ],
)
@pytest.mark.parametrize("name", ["digits", "doodles", "sprites"])
def test_impossible_wishes(name, bad):
    if name == "doodles" and bad.get("n") == 10**6:
        pytest.skip("doodles are drawn in any number")
    with pytest.raises(DataError):
        data.load(name, **bad)


def test_auto_never_hides_damage(tmp_path):
    assert data.load("auto", root=tmp_path).origin == "synthetic"
    write(tmp_path, GOOD[:3000], "pb52.csv")
    with pytest.raises(DataError, match="cut short|ends without"):
        data.load("auto", root=tmp_path)


def test_listing_and_check(tmp_path):
    rows = {r["name"]: r for r in data.listing(tmp_path)}
    assert (
        rows["vowels"]["state"] == "not here: genmix data fetch vowels"
        and rows["formants"]["state"] == "always here (synthetic)"
    )
    assert [n for n, r in rows.items() if r["here"]] == [
        "digits",
        "formants",
        "doodles",
        "sprites",
        "rooms",
        "arms",
    ]
    assert rows["mnist"]["size"] == 11_594_722 and rows["quickdraw"]["size"] is None
    path = write(tmp_path, GOOD, "pb52/pb52.csv")
    write(tmp_path, b"", "MNIST/raw/train-images-idx3-ubyte.gz")
    rows = {r["name"]: r for r in data.listing(tmp_path)}
    assert rows["vowels"]["state"] == f"here: {path}"
    assert rows["mnist"]["state"] == "not here: genmix data fetch mnist (1 of 4 files are)"
    assert "ok" in data.check("formants") and "ok" in data.check(path)
    with pytest.raises(DataError, match=f"expected {data.OFFICIAL}"):
        data.check("vowels", tmp_path)


@pytest.mark.parametrize("name", ["digits", "doodles", "sprites", "rooms", "arms"])
def test_what_is_always_here_passes_its_check(name):
    assert data.check(name).startswith(f"{name}: ok. data: {name} all, ")


# ---- the sets


def test_quickdraw(tmp_path, capsys):
    for k, c in enumerate(("face", "alarm_clock")):
        sketch_file(tmp_path / "quickdraw" / "sketchrnn" / f"{c}.npz", seed=k)
    d = data.load("quickdraw:face,alarm clock", root=tmp_path, progress=False)
    assert (
        d.x.shape == (60, 1, 28, 28)
        and d.classes == ("face", "alarm clock")
        and d.origin == "subset"
        and "SUBSET" in d.describe()
    )
    assert np.bincount(d.y).tolist() == [30, 30] and d.x.max() > 128
    assert data.load("quickdraw:all", "test", tmp_path, progress=False).classes == (
        "alarm clock",
        "face",
    )
    again = data.load("quickdraw:face", "all", tmp_path)  # from the cache, without a bar
    assert len(again) == 40 and capsys.readouterr().err == ""
    with pytest.raises(DataError, match="no category 'Face'; close to it: face"):
        data.load("quickdraw:Face", root=tmp_path)
    with pytest.raises(DataError, match="say which categories"):
        data.load("quickdraw:", root=tmp_path)
    with pytest.raises(DataError, match="Categories that are there: alarm clock, face"):
        data.load("quickdraw", root=tmp_path)
    (tmp_path / "quickdraw/sketchrnn/face.npz").unlink()
    sketch_file(
        tmp_path / "quickdraw/sketchrnn/face.npz", (9, 5, 5), seed=9
    )  # another file, not the cached pictures of the first
    assert len(data.load("quickdraw:face", root=tmp_path, progress=False)) == 9


def test_quickdraw_bitmaps_and_simplified_drawings(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "cat.npy", rng.integers(0, 256, (50, 784)).astype(np.uint8))
    line = (
        '{"word":"cat","countrycode":"US","timestamp":"2017","recognized":true,"key_id":"%d",'
        '"drawing":[[[0,%d,255],[0,9,200]],[[3,4],[5,6]]]}\n'
    )
    write(tmp_path, "".join(line % (k, k + 50) for k in range(40)), "cat.ndjson")
    a, b = (
        data.load(f"quickdraw-{kind}:cat", "all", tmp_path, progress=False)
        for kind in ("bitmap", "simplified")
    )
    assert (
        a.x.shape == (50, 1, 28, 28)
        and b.x.shape == (40, 1, 28, 28)
        and a.origin == b.origin == "subset"
    )
    assert np.bincount(a.part).tolist() == [40, 5, 5]
    with pytest.raises(DataError, match="not the published file"):
        data.check("quickdraw-bitmap:cat", tmp_path)


def test_combined(tmp_path):
    for folder in ("mnist", "fashion"):
        for name, raw in mnist_files(seed=len(folder)).items():
            write(tmp_path, gzip.compress(raw), f"{folder}/{name}.gz")
    with pytest.raises(DataError, match="quickdraw.* not found"):
        data.load("combined", root=tmp_path)
    for k, c in enumerate(data.PAPER_CATEGORIES):
        sketch_file(tmp_path / "quickdraw" / f"{c}.npz", seed=k)
    d = data.load("combined", "all", tmp_path, progress=False)
    assert (
        len(d) == 80 + 80 + 200
        and len(d.classes) == 25
        and d.classes[10] == "T-shirt"
        and d.classes[24] == "eye"
    )
    assert np.bincount(d.y).tolist() == [8] * 20 + [40] * 5 and d.origin == "user"
    assert {r["name"]: r["here"] for r in data.listing(tmp_path)}["combined"]


def test_cifar(tmp_path, monkeypatch):
    path = cifar_file(tmp_path / "cifar-10-python.tar.gz")
    monkeypatch.setattr(
        files, "read_cifar", functools.partial(files.read_cifar, rows=20)
    )  # official batches have 10,000
    color, gray = data.load("cifar-color", "all", tmp_path), data.load("cifar", "all", tmp_path)
    assert (
        color.x.shape == (120, 3, 32, 32)
        and gray.x.shape == (120, 1, 28, 28)
        and color.origin == "user"
    )
    for k in (0, 119):  # Pillow's luma and bilinear filter, which round in between
        want = np.asarray(
            Image.fromarray(np.moveaxis(color.x[k], 0, -1))
            .convert("L")
            .resize((28, 28), Image.BILINEAR)
        )
        assert np.abs(want.astype(int) - gray.x[k, 0]).max() <= 2
    with tarfile.open(path) as tar:
        tar.extractall(
            tmp_path / "unpacked", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )  # Python 3.11.3 has no filters
    again = data.load("cifar-color", "all", tmp_path / "unpacked")
    assert (again.x == color.x).all() and (again.y == color.y).all()


def test_grids_are_converted_once(tmp_path, monkeypatch):
    "A small world in Shapes3D's layout: 2 floors x 3 shapes."
    import h5py

    sizes = (2, 1, 1, 1, 3, 2)
    N, real_open = 12, files.open_grid
    x = np.random.default_rng(0).integers(0, 256, (N, 64, 64, 3)).astype(np.uint8)
    f = np.stack(np.unravel_index(np.arange(N), sizes), 1)
    world = SimpleNamespace(
        FACTORS=dict(zip("abcdse", sizes)) | {}, VALUES={}, factors=lambda i: f[i]
    )
    world.FACTORS = dict(zip(("floor", "wall", "object", "scale", "shape", "orientation"), sizes))
    world.VALUES = {"shape": ("cube", "cylinder", "sphere")}
    monkeypatch.setitem(data.WORLDS, "rooms", world)
    monkeypatch.setattr(
        files,
        "open_grid",
        lambda path, kind: SimpleNamespace(
            blocks=lambda start, rows=5: (x[i : i + rows] for i in range(start, N, rows))
        ),
    )
    with h5py.File(tmp_path / "3dshapes.h5", "w") as h:
        h["images"], h["labels"] = x, f.astype(float)
    d = data.load("shapes3d", root=tmp_path, progress=False)
    assert d.split == "all" and d.x.shape == (12, 3, 64, 64) and d.factor_names[4] == "shape"
    assert (d.x[[3, 1]] == np.moveaxis(x[[3, 1]], -1, 1)).all() and (d.y == f[:, 4]).all()
    part = data.load("shapes3d", "train+test", tmp_path)
    assert (part.x[:] == np.moveaxis(x, -1, 1)[part.rows]).all()
    monkeypatch.setattr(files, "open_grid", real_open)
    with pytest.raises(DataError, match="3dshapes.h5"):
        data.check("shapes3d", tmp_path)


def test_doodles_of_different_splits_are_different():
    parts = [data.load("doodles", s, n=200, seed=1) for s in data.PARTS]
    assert len(np.unique(data.same_images(np.concatenate([d.x for d in parts])))) > 590
    assert parts[0].factor_names == ("category", "style") and parts[0].origin == "synthetic"
    assert (data.load("doodles", n=50, seed=1).x == parts[0].x[:50]).all()
    assert (
        set(data.load("doodles:cat,eye", n=20).classes) == {"cat", "eye"} <= set(doodles.CATEGORIES)
    )
    assert len(data.load("doodles", "all", n=31)) == 31


def test_yours(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.random((40, 3, 16, 16))
    d = data.load(x, "all", labels=np.arange(40) % 4)
    assert (
        d.origin == "user"
        and d.x.shape == x.shape
        and d.classes == ("0", "1", "2", "3")
        and len(data.load(x)) == 40
        and len(data.load(x, "train")) == 32
    )
    np.savez(tmp_path / "a.npz", images=x)
    with pytest.raises(DataError, match="it holds images; expected an array called x"):
        data.load(tmp_path / "a.npz")
    with pytest.raises(DataError, match="labels are"):
        data.load(x, labels=np.zeros(39, int))
    with pytest.raises(DataError, match="a label is"):
        data.load(x, labels=np.full(40, 10**9))
    with pytest.raises(DataError):
        data.load(tmp_path)  # no pictures in it
    for bad in (
        dict(name="my/photos"),
        dict(name=tmp_path, size=(64, 48)),
        dict(name=tmp_path, size=0),
        dict(name=x, split=0),
        dict(name=x, split=["train"]),
    ):
        with pytest.raises(DataError, match="no such file or folder|size is|split is"):
            data.load(**bad)
    with pytest.raises(DataError, match="'.xyz' are not read"):
        data.load(write(tmp_path, "?", "a.xyz"))


# ---- splits and subsets

labels = st.lists(st.integers(0, 4), min_size=1, max_size=200).map(np.array)


@settings(max_examples=60, deadline=None)
@given(labels, st.integers(0, 9), st.data())
def test_subsets_are_nested_and_in_proportion(y, seed, draw):
    n = draw.draw(st.integers(1, len(y)))
    rows = data.stratified(y, n, seed)
    assert len(set(rows.tolist())) == n and set(data.stratified(y, max(1, n // 2), seed)) <= set(
        rows
    )
    share = np.bincount(y, minlength=5) * n / len(y)
    assert (
        np.abs(np.bincount(y[rows], minlength=5) - share) < 2
    ).all()  # Sainte-Laguë keeps to about one


@settings(max_examples=60, deadline=None)
@given(labels, st.integers(1, 50), st.integers(0, 9))
def test_copies_stay_together(y, n_groups, seed):
    groups = np.random.default_rng(seed).integers(0, n_groups, len(y))
    part = data.divide(y, groups)
    assert all(len(set(part[groups == g])) == 1 for g in set(groups))


def test_no_copy_of_a_sprite_is_on_another_side():
    d = data.load("sprites", "train+validation+test")
    original = sprites.distinct(d.rows)
    assert (d.part == d.part[original]).all() and (original != d.rows).sum() > 20_000


# ---- binarization


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 1000), st.integers(1, 300))
def test_fixed_binarization_does_not_depend_on_the_company(seed, n):
    few, many = (
        data.load("digits", "all", n=n, seed=seed),
        data.load("digits", "all", n=400, seed=seed),
    )
    a, b = data.fixed_binarization(few, 3), data.fixed_binarization(many, 3)
    assert (a.x[:] == b.x[:][np.isin(many.rows, few.rows)]).all()
    assert "not the published static set" in a.describe() and isinstance(a.x, cache.Packed)
    assert (a.x[:][few.x == 0] == 0).all() and (a.x[:][few.x == 255] == 255).all()


def test_fixed_binarization_notices_a_change_outside_the_fingerprint():
    x = np.zeros((3000, 1, 8, 8), np.uint8)
    d, changed = data.load(x), x.copy()
    changed[2] = 255
    other = data.load(changed)
    assert d.fingerprint() == other.fingerprint()  # image 2 is not in its sample
    assert (
        data.fixed_binarization(d).x[2].max() == 0
        and data.fixed_binarization(other).x[2].min() == 255
    )


def test_only_gray_images_become_binary():
    with pytest.raises(DataError, match="3 channels"):
        data.fixed_binarization(data.load("rooms", n=3))


# ---- fetching, from a server on this machine


class Server(http.server.BaseHTTPRequestHandler):
    count, offers = 0, {}

    def do_GET(self):
        Server.count += 1
        body = Server.offers.get(self.path.rpartition("/")[2], GOOD.encode())
        if "/gone" in self.path:
            return self.send_error(404)
        if "/wrong" in self.path:
            body = body.replace(b"1", b"2", 1)
        if "/page" in self.path:
            body = b"<!DOCTYPE html><title>Sign in</title>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if "/half" in self.path else body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def offer(address, monkeypatch):
    "Let `fetch('vowels')` ask the local server; the synthetic table plays the official one."
    from genmix.readers import vowels

    sha256 = hashlib.sha256(GOOD.encode()).hexdigest()
    monkeypatch.setattr(data, "OFFICIAL", sha256)
    monkeypatch.setattr(vowels, "OFFICIAL", sha256)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def to(path, base=address):
        s = data.SETS["vowels"]
        monkeypatch.setitem(
            data.SETS,
            "vowels",
            replace(s, files=(replace(s.files[0], url=base + path, checksum=f"sha256:{sha256}"),)),
        )

    return to


def test_fetch(tmp_path, offer, monkeypatch):
    offer("/good")
    [path] = data.fetch("vowels", tmp_path / "new" / "folder", progress=False)
    assert (
        listed(tmp_path) == ["new/folder/vowels/pb52_dataset.csv"]
        and path.read_bytes() == GOOD.encode()
    )
    before = Server.count
    assert data.fetch("vowels", tmp_path / "new" / "folder", progress=False) == [path]
    assert Server.count == before  # not downloaded again
    assert "official" in data.check("vowels", tmp_path / "new" / "folder")


def test_fetch_finds_a_good_copy_elsewhere(tmp_path, offer):
    offer("/gone")
    path = write(tmp_path, GOOD, "pb52/pb52.csv")
    assert data.fetch("vowels", tmp_path) == [path]


def test_fetch_replaces_a_damaged_copy(tmp_path, offer):
    offer("/good")
    write(tmp_path, GOOD[:100], "vowels/pb52_dataset.csv")
    data.fetch("vowels", tmp_path, progress=False)
    assert data.load("vowels", root=tmp_path).origin == "official"


def test_load_downloads_when_asked(tmp_path, offer):
    offer("/good")
    assert data.load("auto", root=tmp_path).origin == "synthetic"
    assert data.load("auto", root=tmp_path, download=True).origin == "official"
    assert data.load("auto", root=tmp_path).origin == "official"


@pytest.mark.parametrize(
    "path, words", [("/wrong", "wrong checksum"), ("/half", "could not fetch"), ("/gone", "404")]
)
def test_fetch_refuses(tmp_path, offer, address, path, words):
    offer(path)
    with pytest.raises(DataError, match=words) as e:
        data.fetch("vowels", tmp_path, progress=False)
    assert listed(tmp_path) == [] and not (tmp_path / "vowels").exists()
    assert (
        address + path in str(e.value)
        and "GENMIX_DATA" in str(e.value)
        and "--data" in str(e.value)
    )


def test_fetch_keeps_the_old_file_when_it_fails(tmp_path, offer):
    offer("/wrong")
    write(tmp_path, "mine", "vowels/pb52_dataset.csv")
    with pytest.raises(DataError):
        data.fetch("vowels", tmp_path, progress=False)
    assert listed(tmp_path) == ["vowels/pb52_dataset.csv"]
    assert (tmp_path / "vowels/pb52_dataset.csv").read_text() == "mine"


@pytest.mark.parametrize("base", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_fetch_without_network(tmp_path, offer, base):
    offer("/good", base)
    with pytest.raises(DataError) as e:
        data.fetch("vowels", tmp_path, progress=False)
    assert base in str(e.value) and " at 0x" not in str(e.value) and str(e.value).isprintable()
    assert listed(tmp_path) == []


def test_fetch_interrupted(tmp_path, offer, monkeypatch):
    import pooch

    def half(self, url, output_file, *args, **kwargs):
        Path(output_file).write_text("half")
        raise KeyboardInterrupt

    offer("/good")
    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", half)
    with pytest.raises(KeyboardInterrupt):
        data.fetch("vowels", tmp_path, progress=False)
    assert listed(tmp_path) == []


def test_fetch_into_what_is_no_folder(tmp_path, offer):
    offer("/good")
    path = write(tmp_path, "not the table")
    with pytest.raises(DataError, match="Point --root"):
        data.fetch("vowels", path)
    with pytest.raises(DataError, match="could not fetch"):
        data.fetch("vowels", path / "below")


def test_fetch_names():
    with pytest.raises(DataError, match="nothing needs to be fetched"):
        data.fetch("formants")
    with pytest.raises(DataError, match="there are: vowels"):
        data.fetch("minst")
    with pytest.raises(DataError, match="no category 'katze'"):
        data.fetch("quickdraw:katze")


@pytest.mark.parametrize(
    "mirrors, ok",
    [
        (["/good/"], True),
        (["/gone/", "/good/"], True),
        (["/wrong/"], False),
        (["/half/"], False),
        (["/gone/"], False),
    ],
)
def test_fetch_mnist_from_torchvisions_mirrors(tmp_path, address, monkeypatch, mirrors, ok):
    from torchvision import datasets

    made = {name + ".gz": gzip.compress(raw, mtime=0) for name, raw in mnist_files().items()}
    monkeypatch.setattr(Server, "offers", made)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [address + m for m in mirrors])

    def md5(raw):
        return hashlib.md5(raw).hexdigest()

    known = tuple(
        replace(f, checksum=f"md5:{md5(made[f.name])}", content=md5(gzip.decompress(made[f.name])))
        for f in data.MNIST
    )
    monkeypatch.setitem(data.SETS, "mnist", replace(data.SETS["mnist"], files=known))
    if ok:
        assert data.load("mnist", root=tmp_path, download=True, progress=False).origin == "official"
        assert listed(tmp_path) == sorted(f"mnist/{n}" for n in made)
        before = Server.count
        data.fetch("mnist", tmp_path)
        assert Server.count == before
    else:
        with pytest.raises(DataError, match="could not fetch train-images-idx3-ubyte.gz"):
            data.fetch("mnist", tmp_path)
        assert listed(tmp_path) == []


def test_what_has_no_checksum_must_be_readable(tmp_path, address, monkeypatch):
    good = sketch_file(tmp_path / "made" / "cat.npz").read_bytes()
    monkeypatch.setattr(Server, "offers", {"cat.npz": good})
    real = data._quickdraw_file
    for path, ok in (("/page/", False), ("/half/", False), ("/good/", True)):
        monkeypatch.setattr(
            data,
            "_quickdraw_file",
            lambda n, c, path=path: replace(real(n, c), url=f"{address}{path}{c}.npz"),
        )
        if ok:
            assert (
                len(
                    data.load(
                        "quickdraw:cat", root=tmp_path / "root", download=True, progress=False
                    )
                )
                == 30
            )
        else:
            with pytest.raises(DataError, match="could not fetch"):
                data.fetch("quickdraw:cat", tmp_path / "root", progress=False)
            assert not (tmp_path / "root").exists() or listed(tmp_path / "root") == []


def test_two_processes_fetch_the_same_file_once(tmp_path, address):
    code = f"""
import sys, time
from dataclasses import replace
from genmix import data
s = data.SETS["vowels"]
checksum = "sha256:{hashlib.sha256(GOOD.encode()).hexdigest()}"
file = replace(s.files[0], url="{address}/good", checksum=checksum)
data.SETS["vowels"] = replace(s, files=(file,))
print(data.fetch("vowels", {str(tmp_path)!r}, progress=False)[0].stat().st_size)
"""
    before = Server.count
    env = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for _ in range(3)
    ]
    said = [r.communicate(timeout=120) for r in runs]
    assert [r.returncode for r in runs] == [0, 0, 0], said
    assert {out.strip() for out, _ in said} == {str(len(GOOD))} and Server.count == before + 1
    assert listed(tmp_path) == ["vowels/pb52_dataset.csv"]


# ---- real data


@pytest.fixture
def real():
    "The folder with real data, or a skip that says how to get it."
    root = os.environ.get("GENMIX_DATA")
    if not root:
        pytest.skip(
            "needs real data: set GENMIX_DATA to a folder that holds it "
            "(`genmix data fetch mnist` gets some)"
        )
    return Path(root)


def needs(root, *names):
    for name in names:
        if not data.find(name, root) or len(data.find(name, root)) < len(data.files_of(name)):
            pytest.skip(f"needs the real {name}: GENMIX_DATA is set, but does not hold it")


@pytest.mark.parametrize("name, first", [("mnist", [5, 0, 4, 1, 9]), ("fashion", [9, 0, 0, 3, 0])])
def test_real_mnist_and_fashion(real, name, first):
    needs(real, name)
    d = data.load(name, "all")
    assert d.origin == "official" and len(d) == 70_000 and d.y[:5].tolist() == first
    assert [len(data.load(name, s)) for s in data.PARTS] == [50_000, 10_000, 10_000]
    assert "ok" in data.check(name)
    few = data.load(name, n=1000, seed=3)
    share = np.bincount(data.load(name).y) / 50
    assert np.abs(np.bincount(few.y) - share).max() <= 1


def test_real_quickdraw(real):
    there = data._categories_here("quickdraw", real)
    if not there:
        pytest.skip("needs sketch-rnn files of QuickDraw: GENMIX_DATA is set, but holds none")
    d = data.load("quickdraw:all", "all", progress=False)
    assert d.classes == tuple(there) and d.x.shape[1:] == (1, 28, 28) and len(d) >= 100 * len(there)
    ink = (d.x[:: max(1, len(d) // 2000)] > 0).mean()
    assert 0.05 < ink < 0.5
