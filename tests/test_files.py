"""Files nobody vouches for: what each reader refuses, and thousands of damaged files.

Hostile pickles, memory, and the real files.
"""

import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import time
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from benchmarks.readers import npy_header, python2_pickle, write_sketches
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from genmix.readers import files
from genmix.readers.files import DataError

SMALL = (2, 2, 3, 2, 2, 4, 4)  # a small dSprites
ROOMS = (2, 2, 2, 2, 2, 2, 4, 4, 3)  # a small Shapes3D
ARMS = (2, 2, 2, 1, 1, 2, 2, 4, 4, 3)  # a small MPI3D


# ---------------------------------------------------------------- small sound files
def drawing(n=4, seed=0):
    rng = np.random.default_rng([n, seed])
    return np.column_stack([rng.integers(-30, 30, (n, 2)), np.arange(n) == n - 1]).astype(np.int16)


def ragged(items):
    a = np.empty(len(items), object)
    a[:] = items
    return a


def idx(x, kind=8):
    return bytes([0, 0, kind, x.ndim]) + struct.pack(f">{x.ndim}I", *x.shape) + x.tobytes()


def npy(x, **kwargs):
    out = io.BytesIO()
    np.save(out, x, **kwargs)
    return out.getvalue()


def archive(path, members, **kwargs):
    "A zip of these members, as they are, with right checksums."
    with zipfile.ZipFile(path, "w", **kwargs) as z:
        for name, raw in members.items():
            z.writestr(name, raw)
    return path


def object_npy(raw, n):
    return npy_header((n,), "|O") + raw


def sketch_members(train, valid=None, test=None):
    one = python2_pickle([drawing()])
    return {
        "train.npy": train,
        "valid.npy": valid or object_npy(one, 1),
        "test.npy": test or object_npy(one, 1),
    }


def batches(rows=3):
    rng = np.random.default_rng(0)
    made = {
        n: {
            b"data": rng.integers(0, 256, (rows, 3072), dtype=np.uint8),
            b"labels": rng.integers(0, 10, rows).tolist(),
        }
        for n in files.CIFAR[1:]
    }
    return {files.CIFAR[0]: {b"label_names": [b"name %d" % i for i in range(10)]}, **made}


def tar(path, members, **kwargs):
    with tarfile.open(path, "w:gz", compresslevel=1, **kwargs) as t:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            t.addfile(info, io.BytesIO(raw))
    return path


def cifar(path, changed=None):
    return tar(path, {n: pickle.dumps(b, 2) for n, b in batches().items()} | (changed or {}))


def sprites():
    n = np.prod(SMALL[:5])
    return np.random.default_rng(0).integers(0, 2, (n, 4, 4), dtype=np.uint8), np.column_stack(
        [np.zeros(n, int), *np.unravel_index(np.arange(n), SMALL[:5])]
    )


def sprites_npz(path, imgs=None, classes=None):
    x, k = sprites()
    np.savez_compressed(
        path,
        imgs=x if imgs is None else imgs,
        latents_classes=k if classes is None else classes,
        metadata=ragged([{"title": "never read"}]),
    )
    return path


def rooms_h5(path, images=None, labels=None):
    n = int(np.prod(ROOMS[:6]))
    x = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    k = np.column_stack(
        [
            np.linspace(0, 1, s)[i]
            for s, i in zip(ROOMS[:6], np.unravel_index(np.arange(n), ROOMS[:6]), strict=True)
        ]
    )
    with h5py.File(path, "w") as f:
        f.create_dataset(
            "images", data=x if images is None else images, chunks=(8, 4, 4, 3), compression="gzip"
        )
        f["labels"] = k if labels is None else labels
    return path


LINE = '{"word": "cat", "drawing": [[[0, 9, 255], [3, 2, 1]], [[7], [8]]]}\n'


def refused(read, *args, match=None, name=None, **kwargs):
    "It raises a DataError in the one form, without a warning; returns the message."
    with warnings.catch_warnings(), pytest.raises(DataError) as e:
        warnings.simplefilter("error")
        read(*args, **kwargs)
    text = str(e.value)
    assert type(e.value) is DataError and "expected" in text and len(text) < 900, text
    assert name is None or str(name) in text, f"{name} is not named in: {text}"
    assert match is None or match in text, f"{match!r} is not in: {text}"
    return text


# ---------------------------------------------------------------- every reader, the same accidents
READERS = {  # name -> (reader, arguments, maker of a sound file)
    "idx": (
        files.read_idx,
        {"shape": (None, 4, 4)},
        lambda p: p.write_bytes(gzip.compress(idx(np.zeros((3, 4, 4), np.uint8)))),
    ),
    "npy": (files.read_npy, {}, lambda p: p.write_bytes(npy(np.arange(20)))),
    "npz": (files.read_npz, {}, lambda p: archive(p, {"a.npy": npy(np.arange(20))})),
    "sketches": (files.read_sketches, {}, lambda p: write_sketches(p, (3, 1, 1))),
    "ndjson": (files.read_ndjson, {}, lambda p: p.write_text(LINE * 3)),
    "bitmaps": (files.read_bitmaps, {}, lambda p: p.write_bytes(npy(np.zeros((2, 784), np.uint8)))),
    "cifar": (files.read_cifar, {"rows": 3}, cifar),
    "dsprites": (
        files.open_grid,
        {"kind": "dsprites", "shape": SMALL},
        lambda p: sprites_npz(p.open("wb")),
    ),
    "shapes3d": (files.open_grid, {"kind": "shapes3d", "shape": ROOMS}, rooms_h5),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "accident", ["missing", "folder", "empty", "page", "text", "zeros", "half"]
)
def test_ordinary_accidents(tmp_path, name, accident):
    read, kwargs, make = READERS[name]
    path = tmp_path / "data file"
    if accident == "folder":
        path.mkdir()
    elif accident == "half":
        make(path)
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) // 2])
    elif accident != "missing":
        path.write_bytes(
            {
                "empty": b"",
                "page": b"\n <!doctype html>\n<title>Not found</title>",
                "text": b"hello world\n" * 40,
                "zeros": bytes(5000),
            }[accident]
        )
    text = refused(read, path, name=path, **kwargs)
    if accident == "page":
        assert "web page" in text
    if accident == "missing":
        assert "there is no such" in text and "genmix data fetch" in text


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="needs a user whom permissions bind",
)
def test_unreadable(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"x")
    path.chmod(0)
    refused(files.read_bytes, path, match="cannot be read")


@pytest.mark.parametrize("name", READERS)
def test_the_sound_files_are_sound(tmp_path, name):
    read, kwargs, make = READERS[name]
    make(tmp_path / "x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path / "x", **kwargs)


# ---------------------------------------------------------------- reader by reader
@pytest.mark.parametrize(
    "raw,match",
    [
        (idx(np.zeros((3, 4, 4), np.uint8), kind=9), "type 0x09"),
        (idx(np.zeros((3, 4), np.uint8)), "2 dimensions"),
        (idx(np.zeros((3, 4, 5), np.uint8)), "[3, 4, 5]"),
        (idx(np.zeros((0, 4, 4), np.uint8)), "[0, 4, 4]"),
        (idx(np.zeros((3, 4, 4), np.uint8))[:-1], "63 bytes"),
        (idx(np.zeros((3, 4, 4), np.uint8)) + b"x", "65 bytes"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 2**32 - 1, 4, 4), "68,719,476,736"),
        (b"\0\0\x08\x03\0\0", "3 dimensions in 6 bytes"),
        (b"\0\0", "idx"),
        (gzip.compress(idx(np.zeros((3, 4, 4), np.uint8)))[:-9], "too early"),
        (gzip.compress(b"hello"), "idx"),
        (gzip.compress(idx(np.zeros((3, 4, 4), np.uint8))) + b"more", "something follows"),
    ],
)
def test_idx(tmp_path, raw, match):
    path = tmp_path / "images"
    path.write_bytes(raw)
    refused(files.read_idx, path, (None, 4, 4), match=match, name=path)


def test_idx_is_read_whatever_it_is_called(tmp_path):
    x = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    for name, raw in (
        ("a.gz", idx(x)),
        ("b", gzip.compress(idx(x))),
        ("c", gzip.compress(idx(x)) + bytes(100)),
    ):
        (tmp_path / name).write_bytes(raw)
        got, md5 = files.read_idx(tmp_path / name, (None, 4, 4))
        np.testing.assert_array_equal(got, x)
        assert md5 == hashlib.md5(idx(x)).hexdigest() and got.flags.writeable


def header(text):
    text = text.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "raw,match",
    [
        (
            header("{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }\n") + bytes(23),
            "bytes for shape [3]",
        ),
        (
            header("{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }\n") + bytes(25),
            "bytes for shape [3]",
        ),
        (
            header("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }\n") + bytes(24),
            "pickled objects",
        ),
        (
            header("{'descr': '<U9', 'fortran_order': False, 'shape': (3,), }\n") + bytes(24),
            "type '<U9'",
        ),
        (
            header("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (3,), }\n") + bytes(24),
            "type",
        ),
        (
            header("{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (3,), }\n")
            + bytes(24),
            "no sense",
        ),
        (
            header("{'descr': '<i8', 'fortran_order': False, 'shape': (-3,), }\n") + bytes(24),
            "no sense",
        ),
        (
            header("{'descr': '<i8', 'fortran_order': False, 'shape': (3 4), }\n") + bytes(24),
            "no sense",
        ),
        (
            header("{'descr': '<i8', 'fortran_order': False, 'shape': (,), }\n") + bytes(24),
            "no sense",
        ),
        (
            header("{'descr': '<i8', 'fortran_order': False, 'shape': (999999999999,), }\n"),
            "bytes for shape",
        ),
        (
            header(
                "{'descr': '<i8', 'fortran_order': False, 'shape': (999999999999, 99999999), }\n"
            ),
            "a disk can hold",
        ),
        (
            header(
                "{'descr': '<i8', 'fortran_order': False, "
                "'shape': (0, 999999999999, 999999999999), }\n"
            ),
            "a disk can hold",
        ),
        (header("__import__('os').mkdir('canary')"), "no sense"),
        (header("{" * 3000), "no sense"),
        (header(" " * 5000), "header of 5,000"),
        (b"\x93NUMPY\x04\x00" + bytes(50), "this is a NumPy array"),
        (b"\x93NUMPY", "this is a NumPy array"),
        (
            header("{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }\n") + b"\0\1\2",
            "truth values",
        ),
    ],
)
def test_npy(tmp_path, raw, match):
    path = tmp_path / "a.npy"
    path.write_bytes(raw)
    refused(files.read_npy, path, match=match, name=path)
    archive(tmp_path / "a.npz", {"a.npy": raw})
    refused(files.read_npz, tmp_path / "a.npz", name=tmp_path / "a.npz")


@pytest.mark.parametrize(
    "x",
    [
        np.arange(6.0),
        np.arange(6).reshape(2, 3),
        np.arange(24, dtype=">i2").reshape(2, 3, 4),
        np.float32(3),
        np.zeros((0, 5)),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array([True, False]),
        np.zeros((0,), bool),
    ],
    ids=str,
)
def test_what_numpy_saves_is_read_back(tmp_path, x):
    for version in ((1, 0), (2, 0), (3, 0)):
        with open(tmp_path / "a.npy", "wb") as f:
            np.lib.format.write_array(f, np.asanyarray(x), version=version)
        for mmap in (True, False):
            got = files.read_npy(tmp_path / "a.npy", mmap)
            np.testing.assert_array_equal(got, x)
            assert got.dtype == np.asanyarray(x).dtype
            del got
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", a=x)
        got = files.read_npz(tmp_path / "a.npz")["a"]
        np.testing.assert_array_equal(got, x)
        assert got.dtype == np.asanyarray(x).dtype


def forge(path, old, new):
    "Change a little-endian field in local header and table of contents alike."
    raw = path.read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new))
    return path


def test_zip_tricks(tmp_path):
    p = tmp_path / "a.npz"
    a = npy(np.arange(20))
    refused(files.read_npz, archive(p, {"a.npy": a}), ("b",), match="no array 'b'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(p, "w") as z:
            z.writestr("a.npy", a)
            z.writestr("a.npy", a)
    refused(files.read_npz, p, match="two entries named")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        refused(
            files.read_npz, archive(p, {"a.npy": a}, compression=method), match="compression method"
        )
    archive(p, {"a.npy": a})
    raw = bytearray(p.read_bytes())
    raw[6] |= 1
    raw[raw.index(b"PK\1\2") + 8] |= 1
    p.write_bytes(raw)
    refused(files.read_npz, p, match="encrypted")
    archive(p, {"a.npy": a})
    forge(p, struct.pack("<II", len(a), len(a)), struct.pack("<II", len(a), 2**31 - 1))
    refused(files.read_npz, p, match="an honest size")
    archive(p, {"a.npy": a, "b.npy": a[:-1] + b"x"})
    raw = p.read_bytes()
    p.write_bytes(raw.replace(a[-8:], b"damaged!", 1))
    refused(files.read_npz, p, ("a",), match="CRC")
    assert list(files.read_npz(p, ("b",))) == ["b"], "the other array is untouched"
    archive(p, {"a.npy": npy(np.zeros(1_000_000))}, compression=zipfile.ZIP_DEFLATED)
    refused(files.read_npz, p, limit=1_000_000, match="8,000,128 bytes unpacked")
    end = p.read_bytes().rindex(b"PK\5\6")
    raw = bytearray(p.read_bytes())
    raw[end + 12 : end + 16] = struct.pack("<I", 2**31)
    p.write_bytes(raw)
    refused(files.read_npz, p, match="damaged")


def test_names_in_an_archive_do_not_flood_the_terminal(tmp_path):
    archive(tmp_path / "a.npz", {"\x1b[31m" + "x" * 5000 + ".npy": npy(np.arange(3))[:-1]})
    assert "\x1b" not in refused(files.read_npz, tmp_path / "a.npz")
    assert "\x1b" not in refused(files.read_npz, tmp_path / "a.npz", ("a",))


def test_only_the_members_asked_for_are_read(tmp_path):
    archive(
        tmp_path / "a.npz",
        {
            "a.npy": npy(np.arange(3)),
            "evil.npy": object_npy(pickle.dumps(Trap(tmp_path / "canary")), 1),
            "b.npy": b"nonsense",
            "README": b"hello",
        },
    )
    assert list(files.read_npz(tmp_path / "a.npz", ("a",))) == ["a"]
    refused(files.read_npz, tmp_path / "a.npz", ("evil",), match="pickled objects")
    refused(files.read_npz, tmp_path / "a.npz", ("b",))
    refused(files.read_npz, tmp_path / "a.npz", ("README",))


def test_a_member_is_a_stream(tmp_path):
    x = np.arange(100_000, dtype=np.int32)
    np.savez_compressed(tmp_path / "a.npz", x=x)
    with files.open_member(tmp_path / "a.npz", "x") as (shape, dtype, stream):
        assert shape == x.shape and dtype == x.dtype
        stream.skip(4 * 10)
        np.testing.assert_array_equal(stream.fill(np.empty(500, np.int32)), x[10:510])
        refused(stream.read, 4 * 100_000, match="too early")
    with pytest.raises(KeyError), files.open_member(tmp_path / "a.npz", "x"):
        raise KeyError("the user's own errors pass")


@pytest.mark.parametrize(
    "bad,match",
    [
        ([drawing() * 2], "pen that is neither"),
        ([drawing(), drawing().astype(float) * np.nan], "drawing 1 has numbers that are not whole"),
        ([drawing() + 0.5], "not whole"),
        ([drawing() + np.inf], "not whole"),
        ([drawing()[:, :2]], "shape [4, 2]"),
        ([drawing()[:0]], "shape [0, 3]"),
        ([drawing().ravel()], "shape [12]"),
        ([drawing() + np.array([5000, 0, 0])], "longer than"),
        ([np.array([[-32768, 0, 0]], np.int16)], "longer than"),
        ([[1, 2, 3]], "no array"),
        ([None], "no array"),
        (["text"], "no array"),
        ([], "no drawings"),
        ([drawing().astype(complex)], "type 'c16'"),
        ([np.array([["a", "b", "c"]])], "an unknown kind"),
        ([drawing().astype(np.uint64) + 2**63], "neither 0 nor 1"),
    ],
)
def test_sketches(tmp_path, bad, match):
    p = tmp_path / "cat.npz"
    np.savez(p, train=ragged(bad), valid=ragged([drawing()]), test=ragged([drawing()]))
    refused(files.read_sketches, p, match=match, name=f"{p}, array train")


def test_sketches_of_all_origins(tmp_path):
    want = [drawing(n) for n in (1, 2, 5, 300)]
    for name, raw in {
        "python2": python2_pickle(want),
        **{p: pickle.dumps(ragged(want), protocol=p) for p in (2, 3, 4)},
        "floats": pickle.dumps(ragged([d.astype(float) for d in want])),
        "big": pickle.dumps(ragged([d.astype(">i4") for d in want])),
        "fortran": pickle.dumps(ragged([np.asfortranarray(d) for d in want])),
    }.items():
        archive(tmp_path / "a.npz", sketch_members(object_npy(raw, 4)))
        got = files.read_sketches(tmp_path / "a.npz")
        assert [len(got[k]) for k in ("train", "valid", "test")] == [4, 1, 1], name
        for a, b in zip(got["train"], want, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == np.int16 and a.dtype.isnative and a.flags.c_contiguous
    np.savez(
        tmp_path / "b.npz",
        train=np.stack([drawing(), drawing()]),
        valid=ragged([drawing()]),
        test=ragged([drawing()]),
    )  # of equal length
    assert len(files.read_sketches(tmp_path / "b.npz")["train"]) == 2
    archive(tmp_path / "c.npz", sketch_members(object_npy(python2_pickle(want), 5)))
    refused(files.read_sketches, tmp_path / "c.npz", match="[5] objects")
    archive(tmp_path / "d.npz", {"train.npy": npy(np.arange(3))})
    refused(files.read_sketches, tmp_path / "d.npz", match="no array 'valid'")


@pytest.mark.parametrize(
    "line,match",
    [
        ("[1, 2]", "no word"),
        ('{"word": "cat"}', "no word"),
        ('{"word": 3, "drawing": []}', "no word"),
        ('{"word": "cat", "drawing": []}', "without strokes"),
        ('{"word": "cat", "drawing": [[[1], [2], [3]]]}', "not two lists"),
        ('{"word": "cat", "drawing": [[[1, 2], [3]]]}', "2 x and 1 y"),
        ('{"word": "cat", "drawing": [[[], []]]}', "0 x"),
        ('{"word": "cat", "drawing": [[[1], [256]]]}', "0 to 255"),
        ('{"word": "cat", "drawing": [[[1], [-1]]]}', "0 to 255"),
        ('{"word": "cat", "drawing": [[[1.5], [1]]]}', "0 to 255"),
        ('{"word": "cat", "drawing": [[[true], [1]]]}', "0 to 255"),
        ('{"word": "cat", "drawing": [[["a"], [1]]]}', "0 to 255"),
        ('{"word": "cat", "drawing": [[[NaN], [1]]]}', "not JSON"),
        ('{"word": "cat", "drawing": [[[1], [' + "9" * 5000 + "]]]}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"word": "cat", "drawing": [[[1], [99999999999999999999]]]}', "0 to 255"),
        ('{"word": "' + "c" * 200 + '", "drawing": [[[1], [1]]]}', "without end"),
        (LINE[:20], "not JSON"),
        ("", "not JSON"),
        ("\udcff", "not JSON"),
    ],
)
def test_ndjson(tmp_path, line, match):
    p = tmp_path / "cat.ndjson"
    p.write_bytes((LINE * 2 + line + "\n").encode("utf-8", "surrogateescape"))
    refused(files.read_ndjson, p, match=match, name=f"{p}, line 3")
    assert len(files.read_ndjson(p, limit=2)[0]) == 2


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((2, 783), np.uint8),
        np.zeros((0, 784), np.uint8),
        np.zeros((2, 784), np.int8),
        np.zeros((2, 28, 28), np.uint8),
        np.zeros((784, 2), np.uint8).T,
    ],
    ids=str,
)
def test_bitmaps(tmp_path, x):
    np.save(tmp_path / "cat.npy", x)
    refused(files.read_bitmaps, tmp_path / "cat.npy", name=tmp_path / "cat.npy")


def batch(**changes):
    return pickle.dumps(
        {**{k.decode(): v for k, v in batches()[files.CIFAR[1]].items()}, **changes}, 2
    )


@pytest.mark.parametrize(
    "raw,match",
    [
        (pickle.dumps([1, 2], 2), "holds a list"),
        (pickle.dumps({}, 2), "no array"),
        (batch(data=np.zeros((3, 3071), np.uint8)), "[3, 3071]"),
        (batch(data=np.zeros((3, 3072), np.int8)), "int8"),
        (batch(labels=[0, 1]), "labels"),
        (batch(labels=[0, 1, 10]), "labels"),
        (batch(labels=[0, 1, -1]), "labels"),
        (batch(labels=[0, 1, True]), "labels"),
        (batch(labels=np.zeros(3, int)), "labels"),
        (batch()[:-50], "ends in the middle"),
        (b"", "too early"),
        (b"<html>", "refuses the instruction"),
    ],
)
def test_cifar(tmp_path, raw, match):
    path = cifar(tmp_path / "cifar.tar.gz", {files.CIFAR[2]: raw})
    refused(files.read_cifar, path, rows=3, match=match, name=f"{path}, data_batch_2")


def test_cifar_archives(tmp_path):
    want = batches()
    got = files.read_cifar(cifar(tmp_path / "a.tar.gz"), rows=3)
    np.testing.assert_array_equal(
        got["train"][0][3:6].reshape(3, -1), want[files.CIFAR[2]][b"data"]
    )
    np.testing.assert_array_equal(got["test"][1], want[files.CIFAR[6]][b"labels"])
    assert (
        got["train"][0].shape == (15, 3, 32, 32)
        and got["test"][0].dtype == np.uint8
        and got["names"][3] == "name 3"
    )
    for where in (
        tmp_path / "up",
        tmp_path / "up" / "cifar-10-batches-py",
    ):  # unpacked, the folder itself or the one above
        where.mkdir()
    for n, b in want.items():
        (tmp_path / "up" / n).write_bytes(pickle.dumps(b, 2))
    for where in (tmp_path / "up", tmp_path / "up" / "cifar-10-batches-py"):
        np.testing.assert_array_equal(files.read_cifar(where, rows=3)["train"][0], got["train"][0])
    (tmp_path / "up" / files.CIFAR[4]).unlink()
    refused(files.read_cifar, tmp_path / "up", rows=3, match="no such file", name="data_batch_4")
    refused(
        files.read_cifar, cifar(tmp_path / "b.tar.gz"), match="[3, 3072]"
    )  # the official size is 10,000


def test_tar_tricks(tmp_path):
    p = tmp_path / "a.tar.gz"
    sound = {n: pickle.dumps(b, 2) for n, b in batches().items()}
    with tarfile.open(p, "w:gz") as t:
        for name, kind in (
            (files.CIFAR[1], tarfile.SYMTYPE),
            ("/etc/passwd", tarfile.REGTYPE),
            ("../" + files.CIFAR[2], tarfile.REGTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            t.addfile(info, io.BytesIO())
        for name, raw in sound.items():
            info = tarfile.TarInfo("./" + name)
            info.size = len(raw)
            t.addfile(info, io.BytesIO(raw))
    assert len(files.read_cifar(p, rows=3)["train"][0]) == 15, (
        "links and other names are passed over"
    )
    with tarfile.open(p, "w:gz") as t:
        for name in (*sound, files.CIFAR[3]):
            info = tarfile.TarInfo(name)
            info.size = len(sound[name])
            t.addfile(info, io.BytesIO(sound[name]))
    refused(files.read_cifar, p, rows=3, match="twice")
    plain = gzip.decompress(cifar(p).read_bytes())
    for change, match in (
        (lambda r: r[:700], "too early"),
        (lambda r: b"x" + r[1:], "damaged entry"),
        (lambda r: r[:124] + b"zzzzzzzzzzzz" + r[136:], "damaged entry"),
    ):
        p.write_bytes(gzip.compress(change(plain), 1))
        refused(files.read_cifar, p, rows=3, match=match)
    info = tarfile.TarInfo(files.CIFAR[1])
    info.size = 8**11 - 1
    p.write_bytes(gzip.compress(info.tobuf(), 1))
    refused(files.read_cifar, p, rows=3, match="too large")
    info.size = 2**28
    p.write_bytes(gzip.compress(info.tobuf() + bytes(2000), 1))
    refused(files.read_cifar, p, rows=3, match="268,435,456")


# ---------------------------------------------------------------- grids
def test_grids_in_both_formats_and_from_any_row(tmp_path):
    x, k = sprites()
    with h5py.File(tmp_path / "s.hdf5", "w") as f:
        f["imgs"], f["latents/classes"], f["latents/values"] = x, k, k.astype(float)
    for path in (sprites_npz(tmp_path / "s.npz"), tmp_path / "s.hdf5"):
        grid = files.open_grid(path, "dsprites", SMALL)
        assert len(grid) == 48 and grid.sizes == SMALL[:5] and grid.names[0] == "shape"
        for start, rows in ((0, 4096), (0, 7), (13, 5), (47, 1), (48, 5)):
            blocks = list(grid.blocks(start, rows))
            assert all(len(b) <= rows for b in blocks)
            np.testing.assert_array_equal(
                np.concatenate([np.zeros((0, 4, 4), np.uint8), *blocks]), x[start:]
            )
        for start, rows in ((-1, 5), (49, 5), (0, 0)):
            with pytest.raises(IndexError):
                list(grid.blocks(start, rows))


def test_mpi3d_flat_or_in_its_box(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (32, 4, 4, 3), dtype=np.uint8)
    for save, shape in ((np.savez, x.shape), (np.savez_compressed, ARMS)):
        save(tmp_path / "m.npz", images=x.reshape(shape))
        np.testing.assert_array_equal(
            np.concatenate(list(files.open_grid(tmp_path / "m.npz", "mpi3d", ARMS).blocks(3, 10))),
            x[3:],
        )
    np.savez(tmp_path / "m.npz", images=np.asfortranarray(x))
    refused(files.open_grid, tmp_path / "m.npz", "mpi3d", ARMS)
    with pytest.raises(DataError, match="there are: dsprites"):
        files.open_grid(tmp_path / "m.npz", "mpi4d")


def changed(a, where, value):
    a = a.copy()
    a[where] = value
    return a


def test_grids_that_are_none(tmp_path):
    x, k = sprites()
    p, q = tmp_path / "s.npz", tmp_path / "r.h5"
    for classes, match in (
        (k[::-1], "color" if k[::-1][:, 0].any() else "factor 0"),
        (changed(k, (7, 2), 1), "factor 1"),
        (changed(k, (7, 5), 9), "factor 4"),
        (changed(k, (0, 0), 1), "color"),
        (k[:, :5], "color"),
        (k[:-1], "labels"),
        (k.astype(float) + [0, 0, 0, 0, 0, 1], "reaches"),
        (k * np.nan, "color"),
        (changed(k.astype(float), (3, 3), np.nan), "no numbers"),
    ):
        refused(
            files.open_grid, sprites_npz(p, classes=classes), "dsprites", SMALL, match=match, name=p
        )
    for imgs, match in (
        (x[:-1], "[47, 4, 4]"),
        (x.astype(np.int8), "int8"),
        (x[..., None], "[48, 4, 4, 1]"),
    ):
        refused(files.open_grid, sprites_npz(p, imgs=imgs), "dsprites", SMALL, match=match, name=p)
    with pytest.raises(DataError, match="a pixel is 255"):
        list(files.open_grid(sprites_npz(p, imgs=x * 255), "dsprites", SMALL).blocks())
    refused(files.open_grid, sprites_npz(p), "shapes3d", ROOMS, match="no array 'images'")
    with h5py.File(rooms_h5(q)) as f:
        labels = f["labels"][:]
    for wrong in (labels[::-1], labels * 0, labels[:, :5], changed(labels, (5, 5), np.inf)):
        refused(files.open_grid, rooms_h5(q, labels=wrong), "shapes3d", ROOMS, name=q)
    refused(
        files.open_grid,
        rooms_h5(q, images=np.zeros((64, 8, 4, 3), np.uint8)),
        "shapes3d",
        ROOMS,
        match="[64, 8, 4, 3]",
    )


def test_hdf5_tricks(tmp_path):
    q, other = tmp_path / "r.h5", tmp_path / "other.h5"
    rooms_h5(other)
    (tmp_path / "secret").write_bytes(bytes(64 * 48))
    labels = h5py.File(other)["labels"][:]

    def made(write):
        with h5py.File(q, "w") as f:
            write(f)
            if "labels" not in f:
                f["labels"] = labels
        return q

    def virtual(f):
        layout = h5py.VirtualLayout((64, 4, 4, 3), np.uint8)
        layout[:] = h5py.VirtualSource(str(other), "images", (64, 4, 4, 3))
        f.create_virtual_dataset("images", layout)

    def elsewhere(f):
        f.create_dataset(
            "images",
            (64, 4, 4, 3),
            np.uint8,
            external=[(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)],
        )

    for write, match in (
        (lambda f: f.__setitem__("images", h5py.ExternalLink("other.h5", "images")), "link"),
        (lambda f: f.__setitem__("images", h5py.SoftLink("/labels")), "link"),
        (virtual, "elsewhere"),
        (elsewhere, "elsewhere"),
        (lambda f: f.create_group("images"), "no array"),
        (
            lambda f: f.create_dataset("images", data=["a", "b"], dtype=h5py.string_dtype()),
            "no array",
        ),
        (lambda f: None, "there is no 'images'"),
        (
            lambda f: f.create_dataset(
                "images", data=np.zeros((64, 4, 4, 3), np.uint8), compression="lzf", chunks=True
            ),
            "unusual compression",
        ),
        (
            lambda f: f.create_dataset(
                "images", (2**40, 64, 64, 3), np.uint8, chunks=(1, 64, 64, 3)
            ),
            "[1099511627776, 64, 64, 3]",
        ),
        (
            lambda f: f.create_dataset(
                "images", (2**20, 64, 64, 3), np.uint8, chunks=(2**20, 16, 16, 3)
            ),
            "huge chunks",
        ),
    ):
        refused(files.open_grid, made(write), "shapes3d", ROOMS, match=match, name=q)
    rooms_h5(q)
    with h5py.File(q, "a") as f:
        del f["labels"]
        f.create_dataset("labels", (2**40, 6), float, chunks=(1000, 6))
    refused(files.open_grid, q, "shapes3d", ROOMS, match="labels [1099511627776, 6]")


# ---------------------------------------------------------------- pictures and arrays
def test_pictures(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    flat = tmp_path / "flat"
    flat.mkdir()
    refused(files.read_folder, flat, match="no pictures")
    for name in ("b.png", "a.jpg", "c.bmp", "d.gif", "e.webp", "F.JPEG"):
        Image.fromarray(rgb).save(flat / name)
    (flat / ".hidden.png").write_bytes(b"x")
    (flat / "notes.txt").write_bytes(b"x")
    x, y, classes, names = files.read_folder(flat, size=(20, 30), channels=3)
    assert (
        names == sorted(["b.png", "a.jpg", "c.bmp", "d.gif", "e.webp", "F.JPEG"])
        and classes == ["flat"]
        and x.shape == (6, 3, 20, 30)
        and not y.any()
    )
    np.testing.assert_array_equal(x[names.index("b.png")], rgb.transpose(2, 0, 1))
    refused(files.read_folder, flat, most=5, match="more than 5")
    (flat / "sub").mkdir()
    Image.fromarray(rgb).save(flat / "sub" / "x.png")
    refused(files.read_folder, flat, match="beside and inside")
    refused(files.read_folder, tmp_path / "nowhere", match="no such folder")
    refused(files.read_folder, flat / "b.png", match="no such folder")
    with pytest.raises(DataError, match="channels"):
        files.read_folder(flat, channels=4)


def test_pictures_of_every_mode(tmp_path):
    gray = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    made = {
        "gray": Image.fromarray(gray),
        "deep": Image.fromarray(gray.astype(np.uint16) * 257),
        "rgb": Image.fromarray(gray).convert("RGB"),
        "palette": Image.fromarray(gray).convert("P"),
        "alpha": Image.fromarray(gray).convert("RGBA"),
        "grayalpha": Image.fromarray(gray).convert("LA"),
    }
    for name, im in made.items():
        im.save(tmp_path / f"{name}.png")
    x, *_ = files.read_folder(tmp_path, size=(32, 32))
    assert np.abs(x[:, 0].astype(int) - gray).max() <= 1
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    (tmp_path / "clear").mkdir()
    clear.save(tmp_path / "clear" / "c.png")
    assert (files.read_folder(tmp_path / "clear", size=(8, 8))[0] == 255).all(), (
        "transparent is paper"
    )
    turned = Image.fromarray(gray)
    exif = Image.Exif()
    exif[0x0112] = 6  # the phone was held upright
    (tmp_path / "turned").mkdir()
    turned.save(tmp_path / "turned" / "t.png", exif=exif)
    np.testing.assert_array_equal(
        files.read_folder(tmp_path / "turned", size=(32, 32))[0][0, 0], np.rot90(gray, -1)
    )


def test_damaged_pictures(tmp_path):
    p = tmp_path / "p.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)).save(p)
    sound = p.read_bytes()
    for raw in (
        sound[:200],
        b"<html>",
        b"",
        b"\x89PNG\r\n\x1a\n",
        sound[:60] + b"xxxx" + sound[64:],
        b"P6 3 3 255 " + bytes(27),
    ):
        p.write_bytes(raw)
        refused(files.read_folder, tmp_path, match="cannot be read", name="p.png")
    size = struct.pack(">II", 60_000, 60_000)
    head = b"IHDR" + size + sound[24:29]
    p.write_bytes(sound[:12] + head + struct.pack(">I", zlib.crc32(head)) + sound[33:])
    refused(files.read_folder, tmp_path, name="p.png")
    size = struct.pack(">II", 9_000, 9_000)
    head = b"IHDR" + size + sound[24:29]
    p.write_bytes(sound[:12] + head + struct.pack(">I", zlib.crc32(head)) + sound[33:])
    refused(files.read_folder, tmp_path, match="9000 x 9000", name="p.png")


@pytest.mark.parametrize(
    "x,match",
    [
        (np.zeros((2, 3, 3), int), "int64" if np.dtype(int).itemsize == 8 else "int32"),
        (np.zeros((2, 3, 3)) + 1.01, "outside"),
        (np.zeros((2, 3, 3)) - 0.01, "outside"),
        (np.full((2, 3, 3), np.nan), "NaN"),
        (np.zeros((2, 3, 3), object), "object"),
        (np.zeros((3, 3), np.uint8), "[3, 3]"),
        (np.zeros((0, 3, 3), np.uint8), "[0, 3, 3]"),
        (np.zeros((2, 4, 5, 6), np.uint8), "channels"),
        ([[1]], "a list"),
        (np.zeros((2, 3, 3), complex), "complex"),
        (np.zeros((2, 3, 3), "U3"), "<U3"),
        (np.zeros((1, 1, 1, 1, 1), np.uint8), "[1, 1, 1, 1, 1]"),
    ],
)
def test_arrays_refused(x, match):
    refused(files.check_array, x, "mine", match=match, name="mine")


def test_arrays():
    rng = np.random.default_rng(0)
    u = rng.integers(0, 256, (1500, 5, 6), dtype=np.uint8)
    np.testing.assert_array_equal(files.check_array(u), u[:, None])
    for kind in (np.float64, np.float32):
        np.testing.assert_array_equal(files.check_array((u / 255).astype(kind)), u[:, None])
    np.testing.assert_array_equal(files.check_array(u > 99), ((u > 99) * 255)[:, None])
    rgb = rng.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(files.check_array(rgb), rgb.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(
        files.check_array(rgb.transpose(0, 3, 1, 2)), rgb.transpose(0, 3, 1, 2)
    )
    assert files.check_array(np.zeros((2, 3, 7, 3), np.uint8)).shape == (2, 3, 7, 3), (
        "channels first wins"
    )
    assert files.check_array(rgb).flags.c_contiguous


# ---------------------------------------------------------------- pickles
class Trap:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


HOSTILE = [  # pickle, what the refusal names
    (b"cos\nsystem\n(U\x04echotR.", "os.system"),
    (b"cposix\nsystem\n(U\x04echotR.", "posix.system"),
    (b"\x8c\x08builtins\x8c\x04eval\x93\x8c\x01x\x85R.", "builtins.eval"),
    (b"c__builtin__\neval\n(U\x01xtR.", "__builtin__.eval"),
    (b"(U\x04echoios\nsystem\n.", "os.system"),
    (b"cnumpy\nload\nU\x01x\x85R.", "numpy.load"),
    (b"cnumpy\nfromfile\n.", "numpy.fromfile"),
    (b"cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
    (b"cnumpy.f2py.crackfortran\nmyeval\n.", "myeval"),
    (b"c_codecs\ndecode\n.", "_codecs.decode"),
    (b"\x8c\x05numpy\x8c\x13ndarray.__class__.x\x93.", "ndarray.__class__.x"),
    (b"cgenmix.readers.files\nread_npz\n.", "genmix.readers.files.read_npz"),
    (b"(cos\nsystem\nU\x04echoo.", "os.system"),
    (b"(cnumpy\nndarray\no.", "OBJ"),
    (b"cnumpy\nndarray\n)\x81.", "NEWOBJ"),
    (b"\x82\x01.", "EXT1"),
    (b"Pname\n.", "PERSID"),
    (b"NQ.", "BINPERSID"),
    (b"I5\n.", "INT"),
    (b"\x97.", "NEXT_BUFFER"),
    (b"\x96" + bytes(8) + b".", "BYTEARRAY8"),
    (b"\x8f.", "EMPTY_SET"),
    (b"\xff.", "0xff"),
    (b"N2.", "DUP"),
    (b"N0.", "POP"),
]
NONSENSE = [  # machines led astray
    b"",
    b".",
    b"NN.",
    b"(.",
    b"t.",
    b"R.",
    b"b.",
    b"e.",
    b"a.",
    b"]a.",
    b"Na.",
    b"N)R.",
    b"NNR.",
    b"cnumpy\nndarray\n)R.",
    b"cnumpy\nndarray\n.",
    b"cnumpy\ndtype\n(U\x02i2K\x00K\x01tR.",
    b"]\x94h\x00a.",
    b"]q\x00h\x00\x86.",
    b"}q\x00h\x00h\x00s.",
    b"h\x00.",
    b"j\xff\xff\xff\xff.",
    b"N" + b"\x85" * 10_000 + b".",
    b"(" * 10_000,
    b"]" * 10_001 + b".",
    b"(" + b"]" * 10_001 + b"t.",
    b"}(]Nu.",
    b"}N\x85Ns.",
    b"}G\x7f\xf8\0\0\0\0\0\0Ns.",
    b"}" + b"N" + b"\x85" * 9000 + b"Ns.",
    b"}(Nu.",
    b"T\xff\xff\xff\xff.",
    b"B\xff\xff\xff\xff.",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
    b"X\xff\xff\xff\x7f.",
    b"X\x01\0\0\0\xff.",
    b"\x8a\xff" + b"1" * 255 + b".",
    b"c" + b"x" * 1000 + b"\ny\n.",
    b"cx",
    b"\x8c\x05numpyN\x93.",
    b"NN\x93.",
    b"N\x93.",
    b"\x95.",
    b"\x80",
    b"c_codecs\nencode\n(X\x01\0\0\0aX\x05\0\0\0rot13tR.",
    b"c_codecs\nencode\n(X\x02\0\0\0\xe2\x80X\x06\0\0\0latin1tR.",
    b"cnumpy\ndtype\n(U\x02V9K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
]


@pytest.mark.parametrize("raw,name", HOSTILE, ids=[n for _, n in HOSTILE])
def test_hostile_pickles_are_refused_by_name(tmp_path, raw, name):
    refused(files.unpickle, raw, "cat.npz", match=name, name="cat.npz")
    archive(tmp_path / "a.npz", sketch_members(object_npy(raw, 1)))
    refused(files.read_sketches, tmp_path / "a.npz", match=name, name="array train")
    refused(
        files.read_cifar,
        cifar(tmp_path / "c.tar.gz", {files.CIFAR[5]: raw}),
        rows=3,
        match=name,
        name="data_batch_5",
    )


@pytest.mark.parametrize("raw", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_pickles(raw):
    refused(files.unpickle, raw, "cat.npz", name="cat.npz")


def test_traps_do_not_go_off(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Trap(canary)))
    assert canary.is_dir(), "the trap works where pickle runs it"
    canary.rmdir()
    for protocol in range(6):
        raw = pickle.dumps({"data": [Trap(canary)]}, protocol)
        for text in (
            refused(files.unpickle, raw),
            refused(files.read_cifar, cifar(tmp_path / "c.tar.gz", {files.CIFAR[3]: raw}), rows=3),
            refused(
                files.read_sketches,
                archive(
                    tmp_path / "a.npz",
                    sketch_members(
                        object_npy(pickle.dumps(ragged([Trap(canary), drawing()]), protocol), 2)
                    ),
                ),
            ),
        ):
            assert protocol < 2 or f"refuses to load {os.mkdir.__module__}.mkdir" in text, text
    assert not canary.exists()


def array_pickle(
    shape=(2, 3), code="i2", order="<", data=bytes(12), fortran=False, version=1, dtype_version=3
):
    "The pickle of an array with parts of one's own choosing."

    def push(x):
        return (
            pickle.dumps(x, 3)[2:-1]
            .replace(b"q\x00", b"")
            .replace(b"q\x01", b"")
            .replace(b"q\x02", b"")
        )

    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R("
        + push(version)
        + push(shape)
        + b"cnumpy\ndtype\n"
        + push(code)
        + b"K\x00K\x01\x87R("
        + push(dtype_version)
        + push(order)
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + push(fortran)
        + push(data)
        + b"tb."
    )


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (2, 4)},
        {"shape": (2**31, 2**31)},
        {"shape": (2**62, 4)},
        {"shape": (-2, -3)},
        {"shape": (2.0, 3)},
        {"shape": [2, 3]},
        {"shape": None},
        {"shape": (1,) * 40, "data": b"ab"},
        {"shape": (0, 2**30, 2**30, 2**30), "data": b""},
        {"code": "O8"},
        {"code": "V2"},
        {"code": "U1"},
        {"code": "S2"},
        {"code": "M8"},
        {"code": "c8"},
        {"code": "f16"},
        {"code": "i3"},
        {"code": "b1"},
        {"code": "i2,i2"},
        {"code": "i2" * 1000},
        {"code": ""},
        {"order": "<<"},
        {"order": "x"},
        {"order": None},
        {"order": b"\xff"},
        {"data": None},
        {"data": "text"},
        {"data": [1, 2]},
        {"data": b""},
        {"dtype_version": 4},
        {"data": bytes(13)},
    ],
    ids=str,
)
def test_arrays_in_pickles(change):
    assert files.unpickle(array_pickle()).shape == (2, 3)
    if change == {
        "shape": (0, 2**30, 2**30, 2**30),
        "data": b"",
    }:  # numpy itself decides whether an empty array may have such a shape
        with pytest.raises(DataError):
            files.unpickle(array_pickle(**change))
        return
    refused(files.unpickle, array_pickle(**change))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(min_size=1, max_size=300),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(plain, st.sampled_from([2, 3, 4, 5]))
def test_plain_values_survive(value, protocol):
    value = json.loads(json.dumps(value)) if not _has_bytes(value) else value
    got = files.unpickle(pickle.dumps(value, protocol))
    assert got == pickle.loads(pickle.dumps(value, protocol))


def _has_bytes(value):
    return (
        type(value) is bytes
        or (type(value) in (list, tuple) and any(map(_has_bytes, value)))
        or (type(value) is dict and any(map(_has_bytes, value.values())))
    )


ops = st.sampled_from(
    [
        b"(",
        b"]",
        b"}",
        b")",
        b"N",
        b"\x88",
        b"K\x01",
        b"K\x03",
        b"M\xff\xff",
        b"U\x02i2",
        b"U\x01<",
        b"C\x01b",
        b"X\x01\0\0\0a",
        b"X\x06\0\0\0latin1",
        b"\x85",
        b"\x86",
        b"\x87",
        b"t",
        b"a",
        b"e",
        b"s",
        b"u",
        b"q\x00",
        b"q\x01",
        b"h\x00",
        b"h\x01",
        b"\x94",
        b"R",
        b"b",
        b"cnumpy\nndarray\n",
        b"cnumpy\ndtype\n",
        b"cnumpy.core.multiarray\n_reconstruct\n",
        b"c_codecs\nencode\n",
        b"cos\nsystem\n",
        b".",
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R",
        b"cnumpy\ndtype\nU\x02i2K\x00K\x01\x87R",
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        b"cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R",
    ]
)


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ops, max_size=60))
def test_random_programs(program):
    try:
        value = files.unpickle(b"".join(program) + b".")
    except DataError:
        return
    check_plain(value)


def check_plain(value):
    if type(value) in (list, tuple):
        for v in value:
            check_plain(v)
    elif type(value) is dict:
        for v in value.values():
            check_plain(v)
    elif type(value) is np.ndarray:
        assert value.dtype.kind in "iuf"
        value.sum(dtype=float)  # touches every byte
    else:
        assert type(value) in (type(None), bool, int, float, str, bytes)


# ---------------------------------------------------------------- thousands of damaged files
def mutate(raw, rng):
    "One to four of: change bytes, cut, cut out, insert, copy a part elsewhere, write a size."
    b = bytearray(raw)
    for _ in range(rng.integers(1, 5)):
        n = max(len(b), 1)
        # small files have long runs of numbers; half of the changes go to the first and last
        # 300 bytes, where the structure is
        at = int(
            rng.integers(0, n)
            if rng.random() < 0.5
            else min(n - 1, rng.integers(0, 300))
            if rng.random() < 0.6
            else max(0, n - 1 - rng.integers(0, 300))
        )
        kind = rng.integers(0, 7)
        if kind <= 1 and b:
            b[at] = rng.choice(
                [
                    0,
                    1,
                    2,
                    46,
                    127,
                    128,
                    255,
                    b[at] ^ (1 << rng.integers(0, 8)),
                    rng.integers(0, 256),
                ]
            )
        elif kind == 2:
            b = b[:at] if rng.random() < 0.3 else b
        elif kind == 3:
            del b[at : at + int(rng.integers(1, 20))]
        elif kind == 4:
            b[at:at] = rng.integers(0, 256, rng.integers(1, 9), dtype=np.uint8).tobytes()
        elif kind == 5:
            start = int(rng.integers(0, n))
            b[at:at] = b[start : start + int(rng.integers(1, 60))]
        else:
            b[at : at + 4] = rng.choice(
                [
                    b"\xff\xff\xff\xff",
                    b"\xff\xff\xff\x7f",
                    b"\x00\x00\x00\x80",
                    b"\0\0\0\0",
                    b"\x7f\xff\xff\xff",
                ]
            )
    return bytes(b)


def walk(value):
    if isinstance(value, dict):
        for v in value.values():
            walk(v)
    elif isinstance(value, (list, tuple)):
        for v in value:
            walk(v)
    elif isinstance(value, np.ndarray):
        assert not value.dtype.hasobject
        value.sum(dtype=float) if value.dtype.kind != "b" else value.any()


def sane_idx(v):
    assert v[0].dtype == np.uint8 and v[0].shape[1:] == (4, 4) and len(v[1]) == 32


def sane_sketches(v):
    for d in sum(v.values(), []):
        assert (
            d.dtype == np.int16
            and d.ndim == 2
            and d.shape[1] == 3
            and len(d)
            and set(d[:, 2]) <= {0, 1}
            and np.abs(d).max() <= files.STEP
        )


def sane_ndjson(v):
    assert len(v[0]) == len(v[1])
    for s in sum(v[0], []):
        assert s.dtype == np.int16 and s.shape[0] == 2 and s.min() >= 0 and s.max() <= 255


def sane_cifar(v):
    assert (
        v["train"][0].shape == (15, 3, 32, 32) and v["test"][1].max() <= 9 and len(v["names"]) == 10
    )


def sane_bitmaps(v):
    assert v.dtype == np.uint8 and v.shape[1:] == (28, 28)


def blocks(path, kind, shape):
    return np.concatenate(list(files.open_grid(path, kind, shape).blocks(rows=11)))


def all_members(path):
    return files.read_npz(path, objects=("o",))


# name -> (number of files, bytes of a sound file, how damaged bytes become a file, reader,
# what a result must be)
FUZZ = {}


def zipped(inner, name):
    "Damage within a member, under a checksum that is right: what a bad writer makes."

    def make(path, raw):
        with zipfile.ZipFile(io.BytesIO(inner)) as z, zipfile.ZipFile(path, "w") as out:
            for n in z.namelist():
                out.writestr(n, raw if n == name else z.read(n))

    return make


def whole(path, raw):
    path.write_bytes(raw)


def gzipped(path, raw):
    path.write_bytes(gzip.compress(raw, 1))


def fuzz_cases(tmp):
    def raw(make):
        make(tmp / "sound")
        return (tmp / "sound").read_bytes()

    def inside(archive, name):
        with zipfile.ZipFile(io.BytesIO(archive)) as z:
            return z.read(name)

    images = idx(np.random.default_rng(0).integers(0, 256, (5, 4, 4), dtype=np.uint8))
    npz = raw(
        lambda p: np.savez(
            p.open("wb"),
            a=np.arange(12).reshape(3, 4),
            o=ragged([drawing(), {"k": [1, 2.5, "x", None]}]),
            b=np.asfortranarray(np.ones((3, 2), np.float32)),
        )
    )
    sketch = raw(
        lambda p: archive(
            p, sketch_members(object_npy(python2_pickle([drawing(n) for n in (3, 2, 50)]), 3))
        )
    )
    cif = raw(cifar)
    plain_tar = gzip.decompress(cif)
    grid, h5 = raw(lambda p: sprites_npz(p.open("wb"))), raw(rooms_h5)
    stored = raw(
        lambda p: np.savez(
            p.open("wb"), images=np.arange(32 * 48, dtype=np.uint8).reshape(32, 4, 4, 3)
        )
    )
    first = pickle.dumps(batches()[files.CIFAR[1]], 2)

    def cifar_inner(path, raw):
        cifar(path, {files.CIFAR[1]: raw})

    def picture(kind, **kwargs):
        return raw(
            lambda p: Image.fromarray(
                np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
            ).save(p, format=kind, **kwargs)
        )

    def one(path):
        folder = path.parent / "pictures"
        folder.mkdir(exist_ok=True)
        (folder / "p.png").write_bytes(path.read_bytes())
        return files.read_folder(folder, size=(6, 6), channels=3)[0]

    def sane_one(v):
        assert v.shape == (1, 3, 6, 6) and v.dtype == np.uint8

    read_idx = lambda p: files.read_idx(p, (None, 4, 4))  # noqa: E731
    read_cifar = lambda p: files.read_cifar(p, rows=3)  # noqa: E731
    return {
        "idx": (2000, images, whole, read_idx, sane_idx),
        "idx.gz": (500, gzip.compress(images), whole, read_idx, sane_idx),
        "idx in gz": (500, images, gzipped, read_idx, sane_idx),
        "npy": (
            2000,
            npy(np.arange(60, dtype=np.int16).reshape(20, 3)),
            whole,
            lambda p: files.read_npy(p, mmap=False),
            walk,
        ),
        "npz": (1500, npz, whole, all_members, walk),
        "npz, header inside": (500, inside(npz, "a.npy"), zipped(npz, "a.npy"), all_members, walk),
        "npz, pickle inside": (1500, inside(npz, "o.npy"), zipped(npz, "o.npy"), all_members, walk),
        "sketches": (1000, sketch, whole, files.read_sketches, sane_sketches),
        "sketches, pickle inside": (
            2500,
            inside(sketch, "train.npy"),
            zipped(sketch, "train.npy"),
            files.read_sketches,
            sane_sketches,
        ),
        "ndjson": (2000, (LINE * 3).encode(), whole, files.read_ndjson, sane_ndjson),
        "bitmaps": (
            1000,
            npy(np.zeros((2, 784), np.uint8)),
            whole,
            files.read_bitmaps,
            sane_bitmaps,
        ),
        "cifar": (200, cif, whole, read_cifar, sane_cifar),
        "cifar, tar inside": (150, plain_tar, gzipped, read_cifar, sane_cifar),
        "cifar, pickle inside": (400, first, cifar_inner, read_cifar, sane_cifar),
        "dsprites": (800, grid, whole, lambda p: blocks(p, "dsprites", SMALL), walk),
        "mpi3d": (800, stored, whole, lambda p: blocks(p, "mpi3d", ARMS), walk),
        "shapes3d": (1500, h5, whole, lambda p: blocks(p, "shapes3d", ROOMS), walk),
        "png": (500, picture("PNG"), whole, one, sane_one),
        "jpeg": (300, picture("JPEG"), whole, one, sane_one),
        "gif": (300, picture("GIF"), whole, one, sane_one),
        "bmp": (300, picture("BMP"), whole, one, sane_one),
        "webp": (300, picture("WEBP"), whole, one, sane_one),
        "pickle": (
            6000,
            python2_pickle([drawing(n) for n in (3, 2, 50)]),
            None,
            files.unpickle,
            check_plain,
        ),
        "pickle 4": (
            4000,
            pickle.dumps(ragged([drawing(), {"k": [1, 2.5, "x", None]}, (drawing(2),)]), 4),
            None,
            files.unpickle,
            check_plain,
        ),
    }


CASES = [
    "idx",
    "idx.gz",
    "idx in gz",
    "npy",
    "npz",
    "npz, header inside",
    "npz, pickle inside",
    "sketches",
    "sketches, pickle inside",
    "ndjson",
    "bitmaps",
    "cifar",
    "cifar, tar inside",
    "cifar, pickle inside",
    "dsprites",
    "mpi3d",
    "shapes3d",
    "png",
    "jpeg",
    "gif",
    "bmp",
    "webp",
    "pickle",
    "pickle 4",
]


@pytest.mark.parametrize("case", CASES)
def test_damaged_files(tmp_path, case):
    "Thousands of damaged files: a DataError or a sane result, soon, and no warning."
    count, sound, make, read, sane = fuzz_cases(tmp_path)[case]
    count = int(count * float(os.environ.get("GENMIX_FUZZ", "1")))
    path, found = tmp_path / "damaged", {"read": 0, "refused": 0}

    def attempt(raw):
        start = time.monotonic()
        try:
            if make:
                make(path, raw)
            sane(read(path if make else raw))
            found["read"] += 1
        except DataError as e:
            assert len(str(e)) < 900
            found["refused"] += 1
        assert time.monotonic() - start < 20

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attempt(sound)
        assert found["read"] == 1, "the sound file is read"
        for seed in range(count):
            raw = mutate(sound, np.random.default_rng([seed, len(case)]))
            try:
                attempt(raw)
            except BaseException as e:
                raise AssertionError(f"{case}, seed {seed}: {type(e).__name__}: {e}") from e
    assert found["refused"] > count / 10, found


def test_all_cases_are_run(tmp_path):
    assert list(fuzz_cases(tmp_path)) == CASES


# ---------------------------------------------------------------- memory
def peak(f):
    "Most memory that Python and NumPy took during a call, in MB."
    tracemalloc.start()
    try:
        f()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def test_sizes_that_would_exhaust_memory(tmp_path):
    p = tmp_path / "x"
    big = {
        "idx": (
            b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 4, 4),
            lambda: files.read_idx(p, (None, 4, 4)),
        ),
        "npy": (npy_header((10**6, 10**5), "<f8"), lambda: files.read_npy(p, mmap=False)),
        "gzip bomb": (
            gzip.compress(bytes(300_000_000)),
            lambda: files.read_bytes(p, limit=10_000_000),
        ),
        "pickle": (array_pickle(shape=(2**30, 2**30)), lambda: files.unpickle(p.read_bytes())),
        "bytes": (
            b"\x8e" + struct.pack("<Q", 2**40) + b".",
            lambda: files.unpickle(p.read_bytes()),
        ),
    }
    for name, (raw, read) in big.items():
        p.write_bytes(raw)
        mb = peak(lambda: refused(read))  # noqa: B023
        assert mb < 30, f"{name}: {mb:.0f} MB"
    archive(p, {"a.npy": npy_header((10**9, 10), "<f8") + bytes(1000)})
    assert peak(lambda: refused(files.read_npz, p)) < 30
    bomb = npy_header((300_000_000,), "|u1") + bytes(300_000_000)
    archive(p, {"imgs.npy": bomb, "a.npy": npy(np.arange(3))}, compression=zipfile.ZIP_DEFLATED)
    del bomb
    assert peak(lambda: refused(files.read_npz, p, limit=10_000_000)) < 30
    assert peak(lambda: files.read_npz(p, ("a",))) < 30
    cifar_bomb = tarfile.TarInfo(files.CIFAR[1])
    cifar_bomb.size = 2**26 + 1
    p.write_bytes(gzip.compress(cifar_bomb.tobuf() + bytes(2**26 + 512), 1))
    assert peak(lambda: refused(files.read_cifar, p, rows=3)) < 30


def test_pickles_without_end(tmp_path):
    "What a short program can make is bounded: encoded text, lists, instructions."
    text = "a" * 100_000
    raw = (
        b"X"
        + struct.pack("<I", len(text))
        + text.encode()
        + b"q\x00("
        + b"c_codecs\nencode\nh\x00X\x06\0\0\0latin1\x86R" * 5000
        + b"t."
    )
    assert peak(lambda: refused(files.unpickle, raw, match="more encoded text")) < 30
    assert refused(files.unpickle, b"]q\x00" + b"(h\x00h\x00tq\x00" * 50 + b".", match="used twice")
    refused(
        files.unpickle,
        b"(" + b"N" * 100_000 + b"t.",
        steps=100_000,
        match="more than 100,000 instructions",
    )
    assert len(files.unpickle(b"(" + b"N" * 100_000 + b"t.")) == 100_000


def test_a_grid_is_walked_in_little_memory(tmp_path):
    shape = (2, 2, 2, 1, 1, 20, 20, 64, 64, 3)  # 39 MB of images
    x = np.zeros((3200, 64, 64, 3), np.uint8)
    x[:, ::7] = np.arange(3200)[:, None, None, None] % 251
    np.savez_compressed(tmp_path / "m.npz", images=x)
    del x
    grid = files.open_grid(tmp_path / "m.npz", "mpi3d", shape)
    seen = []
    assert (
        peak(lambda: seen.extend(int(b[0, 0, 0, 0]) for b in grid.blocks(start=1000, rows=100)))
        < 12
    )  # a block has 1.2 MB
    assert seen == [i % 251 for i in range(1000, 3200, 100)]


# ---------------------------------------------------------------- the real files
MD5 = {  # of the unpacked bytes
    ("mnist", "train-images"): "6bbc9ace898e44ae57da46a324031adb",
    ("mnist", "train-labels"): "a25bea736e30d166cdddb491f175f624",
    ("mnist", "t10k-images"): "2646ac647ad5339dbf082846283269ea",
    ("mnist", "t10k-labels"): "27ae3e4e09519cfbb04c329615203637",
    ("fashion", "train-images"): "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    ("fashion", "t10k-labels"): "15d484375f8d13e6eb1aabb0c3f46965",
}


def real(*parts):
    "A path below GENMIX_DATA, or a skip that says what is missing."
    root = os.environ.get("GENMIX_DATA")
    if not root:
        pytest.skip(f"needs real data: set GENMIX_DATA to a folder that holds {'/'.join(parts)}")
    path = Path(root, *parts)
    if not path.exists():
        pytest.skip(f"needs real data: GENMIX_DATA is set, but holds no {'/'.join(parts)}")
    return path


@pytest.mark.parametrize("name", MD5, ids="-".join)
def test_real_idx(name):
    folder, file = name
    dims = 3 if "images" in file else 1
    x, md5 = files.read_idx(real(folder, f"{file}-idx{dims}-ubyte.gz"), (None, 28, 28)[:dims])
    assert (
        md5 == MD5[name]
        and len(x) == (60_000 if "train" in file else 10_000)
        and x.max() == (255 if dims == 3 else 9)
    )


@pytest.mark.parametrize(
    "name,counts",
    [
        ("aaron_sheep", (7400, 300, 300)),
        ("omniglot", (30_000, 1000, 1000)),
        ("short_kanji", (10_000, 600, 500)),
    ],
)
def test_real_sketches_of_python2(name, counts):
    path = real("sketchrnn", f"{name}.npz")
    got = files.read_sketches(path)
    assert tuple(len(got[k]) for k in ("train", "valid", "test")) == counts
    with np.load(
        path, allow_pickle=True, encoding="latin1"
    ) as z:  # these three files we have looked at
        for k, drawings in got.items():
            np.testing.assert_array_equal(np.concatenate(drawings), np.concatenate(list(z[k])))


def test_real_quickdraw():
    paths = sorted(real("quickdraw", "sketchrnn").glob("*.npz"))
    start = time.process_time()
    got = [files.read_sketches(p) for p in paths]
    assert time.process_time() - start < 5
    assert len(paths) == 20 and all(
        [len(d[k]) for k in ("train", "valid", "test")] == [700, 50, 50] for d in got
    )


def test_real_quickdraw_lines_and_bitmaps():
    drawings, words = files.read_ndjson(real("quickdraw", "simplified25_cat.ndjson"))
    assert len(drawings) == 25 and set(words) == {"cat"}
    for name, n in (("cat", 4959), ("eye", 3000), ("snowflake", 500)):
        assert files.read_bitmaps(real("quickdraw", "numpy_bitmap", f"{name}.npy")).shape == (
            n,
            28,
            28,
        )
