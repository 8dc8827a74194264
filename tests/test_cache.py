"""One-time conversions: killed, interrupted, corrupted, crowded, out of space.

And images that are not arrays.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genmix.readers import cache
from genmix.readers.files import DataError

N, SHAPE = 1500, (1500, 40)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rows(start, n=N, b=100):
    for a in range(start, n, b):
        yield np.random.default_rng(a // b).integers(0, 256, (b, 40), dtype=np.uint8)[a % b :]


class Bytes(bytes):
    def __repr__(self):
        return f"<{len(self):,} bytes>"


def build(folder, blocks=rows, made_of="rows", **kwargs):
    return cache.build(folder / "x.npy", SHAPE, np.uint8, blocks, made_of, progress=False, **kwargs)


def never(start):
    raise AssertionError("asked for rows")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The bytes of a file that was written without a disturbance."
    folder = tmp_path_factory.mktemp("whole")
    build(folder)
    return Bytes((folder / "x.npy").read_bytes())


@pytest.fixture(autouse=True)
def save_often(monkeypatch):
    monkeypatch.setattr(cache, "SAVE", 1)


# ---------------------------------------------------------------- the plain case
def test_it_is_a_plain_npy_file(tmp_path, whole):
    x = build(tmp_path)
    expected = np.concatenate(list(rows(0)))
    assert isinstance(x, np.memmap) and not x.flags.writeable and np.array_equal(x, expected)
    np.save(tmp_path / "numpy.npy", expected)
    assert (tmp_path / "numpy.npy").read_bytes() == whole == (tmp_path / "x.npy").read_bytes()
    assert np.array_equal(build(tmp_path, never), expected)
    assert cache.verify(tmp_path / "x.npy")
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")) == [
        "numpy.npy",
        "x.npy",
        "x.npy.json",
    ]


@pytest.mark.parametrize("dtype", ["<f4", ">i2", "bool", "complex128", "uint64"])
@pytest.mark.parametrize("shape", [(7,), (7, 1), (3, 2, 5, 2)])
def test_types_and_shapes(tmp_path, dtype, shape):
    a = (np.arange(np.prod(shape)).reshape(shape) % 5).astype(dtype)
    x = cache.build(
        tmp_path / "new" / "a.npy",
        shape,
        dtype,
        lambda start: iter([a[start:, ...].copy(order="F")]),
        [1, "é"],
        progress=False,
    )
    assert x.dtype == a.dtype and np.array_equal(x, a)


@pytest.mark.parametrize(
    "shape, dtype", [((0, 3), np.uint8), ((), np.uint8), ((3, 0), np.uint8), ((3,), object)]
)
def test_what_cannot_be_stored(tmp_path, shape, dtype):
    with pytest.raises(DataError, match="cannot be stored"):
        cache.build(tmp_path / "a.npy", shape, dtype, never, {}, progress=False)


def test_progress_goes_to_stderr(tmp_path, capfd):
    cache.build(tmp_path / "x.npy", SHAPE, np.uint8, rows, {}, progress=True, what="rows")
    out, err = capfd.readouterr()
    assert out == "" and "x.npy" in err and "1500/1500" in err and "rows" in err


def test_memory_is_bounded_by_a_block(tmp_path):
    tracemalloc.start()
    x = cache.build(
        tmp_path / "x.npy",
        (100, 2**20),
        np.uint8,
        lambda start: (np.full((1, 2**20), a, np.uint8) for a in range(start, 100)),
        {},
        progress=False,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert x.nbytes == 100 * 2**20 and peak < 4 * 2**20


# ---------------------------------------------------------------- killed
PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import test_cache as t
from genmix.readers import cache
cache.SAVE = int(sys.argv[4])
def slow(start):
    for block in t.rows(start):
        time.sleep(float(sys.argv[3]))
        yield block
t.build(Path(sys.argv[1]), slow)
"""


def process(folder, pause, save=1):
    here = os.path.dirname(os.path.abspath(__file__))
    command = [sys.executable, "-c", PROGRAM, str(folder), here, str(pause), str(save)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_at_any_moment(tmp_path, whole):
    rng, kills = np.random.default_rng(0), 0
    part = tmp_path / "x.npy.part"
    for attempt in range(40):
        p = process(tmp_path, 0.004, save=int(rng.integers(1, 9_000)))
        goal = (part.stat().st_size if part.exists() else 0) + rng.integers(9_000, 20_000)
        while p.poll() is None and not (part.exists() and part.stat().st_size >= goal):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.005))
        p.kill()  # SIGKILL; on Windows TerminateProcess
        code = p.wait()
        p.communicate()
        kills += code != 0
        if code == 0:
            break
    assert kills >= 3 and (tmp_path / "x.npy").read_bytes() == whole
    assert not part.exists() and cache.verify(tmp_path / "x.npy")


@pytest.mark.parametrize("done", range(0, 60_000, 4_321))
def test_every_length_of_the_part(tmp_path, whole, done):
    """As after a kill: any number of bytes written, the note from any earlier moment.

    The last bytes are perhaps lost to a power cut.
    """
    noted = 128 + 40 * max(0, (done - 128) // 40 // 100 * 100 - 100)
    with pytest.raises(ZeroDivisionError):
        build(
            tmp_path,
            lambda start: (
                b if k < (noted - 128) // 4000 else 1 / 0 for k, b in enumerate(rows(start))
            ),
        )
    (tmp_path / "x.npy.part").write_bytes(whole[:noted] + bytes(max(0, done - noted)))
    starts = []
    build(tmp_path, lambda start: starts.append(start) or rows(start))
    assert starts == [(noted - 128) // 40] and (tmp_path / "x.npy").read_bytes() == whole


def test_killed_between_side_file_and_name(tmp_path, whole, monkeypatch):
    real = os.replace

    def stop(a, b):
        if str(b).endswith("x.npy"):
            raise KeyboardInterrupt
        real(a, b)

    monkeypatch.setattr(cache.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    monkeypatch.setattr(cache.os, "replace", real)
    assert not (tmp_path / "x.npy").exists()
    build(tmp_path, never)
    assert (tmp_path / "x.npy").read_bytes() == whole


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("the source is gone"), MemoryError])
def test_an_interrupted_source_keeps_what_was_done(tmp_path, whole, error, monkeypatch):
    monkeypatch.setattr(cache, "SAVE", 10**9)  # saved at the end only

    def interrupted(start):
        for k, block in enumerate(rows(start)):
            if k == 7:
                raise error
            yield block

    with pytest.raises(error if isinstance(error, type) else type(error)):
        build(tmp_path, interrupted)
    starts = []
    build(tmp_path, lambda start: starts.append(start) or rows(start))
    assert starts == [700] and (tmp_path / "x.npy").read_bytes() == whole


# ---------------------------------------------------------------- two at once
def test_two_processes_at_once(tmp_path, whole):
    both = [process(tmp_path, 0.03) for _ in range(2)]
    said = [p.communicate(timeout=60)[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert sum("another process is writing x.npy; waiting" in s for s in said) == 1
    assert (tmp_path / "x.npy").read_bytes() == whole


def test_the_lock_of_a_killed_process_is_free(tmp_path, whole):
    p = process(tmp_path, 0.05)
    while not (tmp_path / "x.npy.part").exists():
        time.sleep(0.002)
    p.kill()
    p.wait()
    p.communicate()
    build(tmp_path)
    assert (tmp_path / "x.npy").read_bytes() == whole


# ---------------------------------------------------------------- damaged and foreign files
def test_another_source_starts_anew(tmp_path, whole):
    build(tmp_path, lambda start: iter([np.zeros(SHAPE, np.uint8)]), {"source": "old"})
    starts = []
    build(tmp_path, lambda start: starts.append(start) or rows(start), {"source": "new"})
    assert starts == [0] and (tmp_path / "x.npy").read_bytes() == whole


def test_a_part_of_something_else_is_thrown_away(tmp_path, whole):
    with pytest.raises(DataError):
        build(tmp_path, lambda start: iter([np.zeros((700, 40), np.uint8)]), {"source": "old"})
    assert json.loads((tmp_path / "x.npy.part.json").read_text())["rows"] == 700
    build(tmp_path)
    assert (tmp_path / "x.npy").read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b[:-1],
        lambda b: b + b"!",
        lambda b: b"",
        lambda b: b"\x93NUMPY" + b[6:50],
        lambda b: b[1:] + b[:1],
    ],
)
def test_a_damaged_target_is_built_again(tmp_path, whole, change):
    build(tmp_path)
    (tmp_path / "x.npy").write_bytes(change(whole))
    build(tmp_path)
    assert (tmp_path / "x.npy").read_bytes() == whole


def test_verify_sees_one_changed_bit(tmp_path, whole):
    target = tmp_path / "x.npy"
    assert not cache.verify(target)
    build(tmp_path)
    target.write_bytes(whole[:5000] + bytes([whole[5000] ^ 4]) + whole[5001:])
    assert not cache.verify(target)
    shutil.copy(__file__, tmp_path / "x.npy.json")
    assert not cache.verify(target)


junk = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from(["rows", "crc32", "made_of", "shape", "dtype", "bytes"]), x
            )
        ),
        max_leaves=9,
    ).map(lambda x: json.dumps(x).encode()),
    st.tuples(
        st.integers(-5, 2000) | st.booleans() | st.floats() | st.none(),
        st.integers(-1, 2**32) | st.none(),
    ).map(
        lambda x: json.dumps(
            dict(
                made_of="rows", shape=SHAPE, dtype="|u1", bytes=128 + 40 * N, rows=x[0], crc32=x[1]
            )
        ).encode()
    ),
)


@quick
@given(
    side=junk, note=junk, part=st.binary(max_size=300), target=st.none() | st.binary(max_size=300)
)
def test_junk_beside_the_target(tmp_path_factory, whole, side, note, part, target):
    folder = tmp_path_factory.mktemp("junk")
    for name, data in (
        ("x.npy.json", side),
        ("x.npy.part.json", note),
        ("x.npy.part", part),
        ("x.npy", target),
    ):
        if data is not None:
            (folder / name).write_bytes(data)
    cache.SAVE = 10**9  # save_often's fixture puts it back
    build(folder, lambda start: iter([np.concatenate(list(rows(start)))] if start < N else []))
    assert (folder / "x.npy").read_bytes() == whole
    shutil.rmtree(folder)


# ------------------------------------------------------------- a source that does not keep its word
@pytest.mark.parametrize(
    "blocks, message",
    [
        (
            lambda start: iter([np.zeros((10, 41), np.uint8)]),
            r"uint8 \[10, 41\]; expected uint8 \[b, 40\]",
        ),
        (lambda start: iter([np.zeros((10, 40), np.int8)]), "int8"),
        (lambda start: iter([np.zeros(40, np.uint8)]), r"uint8 \[40\]"),
        (lambda start: iter([np.uint8(3)]), "a uint8"),
        (lambda start: iter([[0] * 40]), "a list"),
        (lambda start: iter([]), "ended after 0 of 1,500"),
        (lambda start: rows(start, 1400), "ended after 1,400 of 1,500"),
        (lambda start: rows(start, 1600), "more than the 1,500"),
    ],
)
def test_wrong_blocks(tmp_path, whole, blocks, message):
    with pytest.raises(DataError, match=message):
        build(tmp_path, blocks)
    assert not (tmp_path / "x.npy").exists() and not (tmp_path / "x.npy.json").exists()


def test_empty_blocks_do_no_harm(tmp_path, whole):
    build(
        tmp_path, lambda start: (b for block in rows(start) for b in (block[:0], block, block[:0]))
    )
    assert (tmp_path / "x.npy").read_bytes() == whole


# ---------------------------------------------------------------- the disk
def test_free_space_is_checked_first(tmp_path, monkeypatch):
    monkeypatch.setattr(
        cache.shutil,
        "disk_usage",
        lambda p: shutil._ntuple_diskusage(10**6, 10**6 - 40_000, 40_000),
    )
    with pytest.raises(DataError) as e:
        build(tmp_path, never)
    said = str(e.value)
    assert (
        "1 MB more are needed, but only 0 MB are free" in said
        and str(tmp_path) in said
        and "GENMIX_CACHE" in said
    )
    assert not (tmp_path / "x.npy.part").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on a file's size")
@pytest.mark.parametrize("save", ["1", "1000000000"])
def test_a_full_disk_keeps_the_part(tmp_path, whole, save):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
    here = os.path.dirname(os.path.abspath(__file__))
    done = subprocess.run(
        [sys.executable, "-c", limit + PROGRAM, str(tmp_path), here, "0", save],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert (
        "DataError" in done.stderr
        and "the disk is full" in done.stderr
        and "GENMIX_CACHE" in done.stderr
    )
    assert "During handling" not in done.stderr and "OSError" not in done.stderr
    starts = []
    build(tmp_path, lambda start: starts.append(start) or rows(start))
    assert starts == [700] and (tmp_path / "x.npy").read_bytes() == whole


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written.*GENMIX_CACHE"):
        build(tmp_path / "file" / "folder")


@pytest.mark.skipif(
    os.name == "nt" or getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write everywhere"
)
def test_a_folder_that_may_only_be_read(tmp_path, whole):
    build(tmp_path)
    tmp_path.chmod(0o500)
    try:
        assert build(tmp_path, never).shape == SHAPE  # reading needs no lock
        with pytest.raises(DataError, match="cannot be written"):
            build(tmp_path, rows, "something else")
    finally:
        tmp_path.chmod(0o700)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("GENMIX_CACHE", str(tmp_path))
    assert cache.cache_root() == tmp_path
    monkeypatch.setenv("GENMIX_CACHE", "~/somewhere")
    assert cache.cache_root() == cache.Path(os.path.expanduser("~")) / "somewhere"
    monkeypatch.delenv("GENMIX_CACHE")
    assert cache.cache_root() == cache.user_cache()
    if os.name == "posix":
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache.user_cache() == tmp_path / "genmix"
        monkeypatch.setattr(sys, "platform", "darwin")
        assert cache.user_cache().parts[-3:] == ("Library", "Caches", "genmix")


# ---------------------------------------------------------------- images that are not arrays
def kinds(a):
    "The same black and white images [N, 1, H, W] behind each of the three faces."
    return [
        cache.Stored(a),
        cache.Packed(cache.pack(a), a.shape[2:]),
        cache.Rendered(lambda rows: a[rows], len(a), a.shape[1:]),
    ]


@st.composite
def array_and_key(draw):
    n, h, w = draw(st.integers(1, 12)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    a = (np.random.default_rng(draw(st.integers(0, 99))).random((n, 1, h, w)) < 0.5).astype(
        np.uint8
    ) * np.uint8(255)
    number = st.integers(-n, n - 1)
    key = draw(
        st.one_of(
            number,
            number.map(np.int32),
            st.slices(n),
            st.lists(number, max_size=20),
            st.lists(number, max_size=20).map(lambda x: np.array(x, np.int16)),
            st.lists(st.integers(0, n - 1), min_size=1, max_size=20).map(
                lambda x: np.array(x, np.uint64)
            ),
            st.lists(st.booleans(), min_size=n, max_size=n).map(np.array),
            st.lists(number, min_size=6, max_size=6).map(lambda x: np.reshape(x, (2, 3))),
        )
    )
    return a, key


@quick
@given(array_and_key())
def test_indexing_is_that_of_an_array(case):
    a, key = case
    plain = a[np.asarray(key, np.int64) if isinstance(key, list) else key]
    for x in kinds(a):
        got = x[key]
        assert got.dtype == np.uint8 and got.shape == plain.shape and np.array_equal(got, plain)
        assert got.flags.writeable and not np.shares_memory(got, a)
        assert x.shape == a.shape and len(x) == len(a) and x.ndim == 4 and x.nbytes == a.nbytes
        if plain.ndim == 4:
            assert np.array_equal(np.asarray(x.take(key)), plain)


@pytest.mark.parametrize(
    "key",
    [
        3,
        -4,
        [0, 3],
        np.array([True, False]),
        1.0,
        [0.5],
        None,
        "a",
        (0, 0),
        np.zeros((3, 1), bool),
        2**70,
        Ellipsis,
    ],
)
def test_bad_indices(key):
    for x in kinds(np.zeros((3, 1, 2, 2), np.uint8)):
        with pytest.raises(IndexError, match="numbered 0 to 2|for each of the 3"):
            x[key]
        with pytest.raises(IndexError):
            x.take(key)


def test_views_of_views():
    a = np.random.default_rng(0).integers(0, 2, (50, 1, 3, 4), dtype=np.uint8) * np.uint8(255)
    for x in kinds(a):
        view = x.take(np.arange(0, 50, 2)).take(slice(None, None, -1)).take([3, 3, 0])
        assert (
            np.array_equal(view[:], a[::2][::-1][[3, 3, 0]])
            and len(x) == 50
            and view.shape == (3, 1, 3, 4)
        )
        assert [im.shape for im in view] == [(1, 3, 4)] * 3  # they can be iterated


def test_nothing_is_rendered_before_it_is_asked_for():
    asked = []

    def render(rows):
        asked.append(rows.tolist())
        return np.zeros((len(rows), 3, 2, 2), np.uint8)

    x = cache.Rendered(render, 10**12, (3, 2, 2), rows=[5, 10**12 - 1])
    assert x.shape == (2, 3, 2, 2) and len(x.take([1])) == 1 and asked == []
    x.take([1])[0]
    assert asked == [[10**12 - 1]]
    x.take(np.zeros(5000, int))[:]
    assert [len(a) for a in asked[1:]] == [2048, 2048, 904]


def test_too_much_at_once():
    x = cache.Rendered(never, 737_280, (1, 64, 64))
    for ask in (np.asarray, lambda x: x[:], lambda x: x[np.arange(500_000)]):
        with pytest.raises(
            DataError, match=r"images of \[1, 64, 64\] in one go take .* GB.*in batches"
        ):
            ask(x)


def test_what_the_three_refuse():
    for make in (
        lambda: cache.Stored(np.zeros((2, 3, 4), np.uint8)),
        lambda: cache.Stored(np.zeros((2, 3, 4, 5))),
        lambda: cache.Packed(np.zeros((2, 3), np.uint8), (4, 4)),
        lambda: cache.Packed(np.zeros((2, 2), np.int8), (4, 4)),
    ):
        with pytest.raises(DataError):
            make()


def test_packed_from_a_memory_map(tmp_path):
    bits = np.random.default_rng(0).integers(0, 256, (300, 512), dtype=np.uint8)
    m = cache.build(
        tmp_path / "bits.npy",
        bits.shape,
        np.uint8,
        lambda start: iter([bits[start:]]),
        {},
        progress=False,
    )
    x = cache.Packed(m, (64, 64))
    i = np.random.default_rng(1).integers(0, 300, 100)
    assert np.array_equal(x[i].reshape(100, -1), np.unpackbits(bits[i], axis=1) * 255)
    assert np.array_equal(cache.pack(x[:]), bits)
