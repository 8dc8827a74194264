"""dSprites rebuilt: the same images everywhere, by the naive rule and by checksum.

Where a sample of the real set is at hand, as in it.
"""

import json
import os
import re
import shutil
import zlib
from fractions import Fraction
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmix.readers import cache
from genmix.worlds import sprites
from genmix.worlds.sprites import SIZES, N, corners, distinct, factors, index, render, render_packed

quick = settings(max_examples=40, deadline=None)
numbers = st.integers(0, N - 1)
CRC_IMAGES, CRC_CORNERS = 0xF8B35305, 0x18FB4735


def lit(P, row, column):
    "Walk left from a pixel's center and count crossings, in fractions. P: corners in 1/256 pixel."
    X, Y, inside = Fraction(256 * column + 128), 256 * row + 128, False
    for (x0, y0), (x1, y1) in zip(P, P[1:] + P[:1]):
        if (y0 < Y) != (y1 < Y) and x0 + Fraction((Y - y0) * (x1 - x0), y1 - y0) <= X:
            inside = not inside
    return inside


@quick
@given(
    numbers, st.lists(st.tuples(st.integers(0, 63), st.integers(0, 63)), min_size=1, max_size=30)
)
def test_every_pixel_follows_the_rule(i, pixels):
    P, image = corners([i])[0].tolist(), render([i])[0, 0]
    f = factors(i)
    row, column = (
        16 + f[4] * 32 // 31,
        16 + f[3] * 32 // 31,
    )  # the middle, and around it the outline
    near = [(row + d, column + e) for d in range(-14, 15, 7) for e in range(-14, 15, 2)]
    for r, c in pixels + [(r, c) for r, c in near if 0 <= r < 64 and 0 <= c < 64]:
        assert image[r, c] == 255 * lit(P, r, c), (i, r, c)


def test_the_images_are_the_same_on_every_machine():
    """Checksums of images across the whole set.

    If this fails, the geometry has changed, or this machine computes differently.
    """
    sample = np.arange(0, N, 97)
    assert zlib.crc32(render_packed(sample).tobytes()) == CRC_IMAGES
    assert (
        zlib.crc32(
            np.concatenate([corners(sample[sample // (N // 3) == s]).ravel() for s in range(3)])
            .astype("<i4")
            .tobytes()
        )
        == CRC_CORNERS
    )


def test_areas_of_the_real_set():
    areas = [
        [100, 144, 196, 256, 324, 400],
        [76, 104, 144, 184, 228, 288],
        [58, 84, 108, 140, 182, 222],
    ]
    f = [[s, k, 0, 0, 0] for s in range(3) for k in range(6)]
    assert np.array_equal((render(index(f)) > 0).sum((1, 2, 3)).reshape(3, 6), areas)


# ---------------------------------------------------------------- numbers and factors
@quick
@given(st.lists(numbers, max_size=50))
def test_numbers_and_factors(i):
    f = factors(i)
    assert f.shape == (len(i), 5) and index(f).tolist() == i
    assert ((f >= 0) & (f < SIZES)).all()


@pytest.mark.parametrize("bad", [-1, N, [0, N], [0.5], ["a"], None, 2**63, [True]])
def test_numbers_that_are_none(bad):
    for f in (factors, render, render_packed, distinct):
        with pytest.raises(IndexError, match="numbered 0 to 737,279|whole numbers"):
            f(bad)


@pytest.mark.parametrize(
    "bad, message",
    [
        ([0, 0, 40, 0, 0], "orientation has classes 0 to 39"),
        ([0, 0, -1, 0, 0], "orientation"),
        ([3, 0, 0, 0, 0], "shape"),
        ([0, 0, 0, 0], "five classes"),
        (3, "five classes"),
        ([0.5] * 5, "whole numbers"),
    ],
)
def test_factors_that_are_none(bad, message):
    with pytest.raises(IndexError, match=message):
        index(bad)


# ---------------------------------------------------------------- batches
@quick
@given(st.lists(numbers, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_a_batch_is_the_images_one_by_one(i, random):
    i = i + random.choices(i, k=5)
    random.shuffle(i)
    x = render(np.array(i, np.int32))
    assert x.shape == (len(i), 1, 64, 64) and x.dtype == np.uint8 and set(np.unique(x)) == {0, 255}
    for k, image in zip(i, x):
        assert np.array_equal(render(k)[0], image)
    assert np.array_equal(np.packbits(x.reshape(len(i), -1) > 0, axis=1), render_packed(i))


def test_an_empty_batch():
    assert render([]).shape == (0, 1, 64, 64) and distinct([]).shape == (0,)


def test_a_batch_larger_than_a_chunk():
    i = np.random.default_rng(0).integers(0, N, 3000)
    assert np.array_equal(render_packed(i)[::-1], render_packed(i[::-1]))


# ---------------------------------------------------------------- equal pictures
def test_equal_pictures_in_the_whole_set():
    first = distinct(np.arange(N))
    assert (first <= np.arange(N)).all() and np.array_equal(first[first], first)
    assert len(np.unique(first)) == 715_706
    f, g = factors(np.arange(N)), factors(first)
    assert np.array_equal(f[:, [0, 1, 3, 4]], g[:, [0, 1, 3, 4]])
    double = np.flatnonzero(first != np.arange(N))
    assert len(double) == 21_574 and (f[double, 2] == 39).sum() == 18_432
    assert np.array_equal(render_packed(double), render_packed(first[double]))


def test_the_stored_repeats_are_those_that_are_found():
    "On some combinations; the notebook compares all."
    groups = np.unique(np.random.default_rng(0).integers(0, (2, 4, 32, 32), (400, 4)), axis=0)
    angles = np.insert(groups, 2, 0, axis=1)[:, None].repeat(40, axis=1)
    angles[:, :, 2] = np.arange(40)
    found = angles.copy()
    found[:, :, 2] = sprites._first_angle(groups)
    assert np.array_equal(distinct(index(angles)), index(found))
    assert (found != angles).sum() > 500 and distinct(5) == 5


def test_no_other_pictures_are_equal():
    found = set()
    for a in range(0, N, 8192):
        found |= {hash(bits.tobytes()) for bits in render_packed(np.arange(a, a + 8192))}
    assert len(found) == 715_706


# ---------------------------------------------------------------- the cache
def test_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENMIX_CACHE", str(tmp_path))
    x = sprites.build_cache(progress=False, n=20_000)
    assert isinstance(x, cache.Packed) and x.shape == (20_000, 1, 64, 64)
    i = np.random.default_rng(0).integers(0, 20_000, 300)
    expected = render(i)
    assert np.array_equal(x[i], expected)

    def never(start, n):
        raise AssertionError("drawn again")

    draw = sprites._blocks
    monkeypatch.setattr(sprites, "_blocks", never)
    assert np.array_equal(sprites.build_cache(progress=False, n=20_000)[i], expected)
    monkeypatch.setattr(sprites, "_blocks", draw)
    real = sprites.render_packed
    monkeypatch.setattr(
        sprites, "render_packed", lambda i: ~real(i)
    )  # another generator: the old file is no longer taken
    assert np.array_equal(sprites.build_cache(progress=False, n=20_000)[i], 255 - expected)


def test_an_interrupted_cache_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("GENMIX_CACHE", str(tmp_path))
    whole = sprites.build_cache(progress=False, n=30_000)[:].copy()
    shutil.rmtree(tmp_path / "sprites")
    draw = sprites._blocks

    def interrupted(start, n):
        for k, block in enumerate(draw(start, n)):
            if k == 2:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(sprites, "_blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sprites.build_cache(progress=False, n=30_000)
    starts = []
    monkeypatch.setattr(sprites, "_blocks", lambda start, n: starts.append(start) or draw(start, n))
    assert np.array_equal(sprites.build_cache(progress=False, n=30_000)[:], whole) and starts == [
        16_384
    ]


# ---------------------------------------------------------------- the real set
def published():
    return json.loads(
        resources.files("genmix").joinpath("published", "sprites.json").read_text(encoding="utf-8")
    )


def test_the_published_comparison():
    p = published()
    c = p["counts"]
    assert c["compared"] == 32_417 and c["identical"] + c["one_pixel"] + c["more"] == c["compared"]
    assert c["identical"] / c["compared"] >= 0.9998 and c["more"] == 0
    assert re.fullmatch("[0-9a-f]{64}", p["provenance"]["sha256"])
    for d in p["differences"]:
        assert render(d["index"])[0, 0, d["row"], d["column"]] == 255 * d["ours"]


def test_real_images():
    root = os.environ.get("GENMIX_DATA", "")
    found = [
        p
        for folder in ("", "dsprites")
        if root and (p := Path(root, folder, "dsprites_real_sample.npz")).is_file()
    ]
    if not found:
        pytest.skip(
            "needs a sample of the real set: "
            "GENMIX_DATA/dsprites/dsprites_real_sample.npz with `index` and `packed`"
        )
    with np.load(found[0], allow_pickle=False) as file:
        i, real = file["index"], file["packed"]
    wrong = np.unpackbits(render_packed(i) ^ real, axis=1).sum(axis=1)
    assert (wrong == 0).mean() >= 0.9998 and wrong.max() <= 1
    if len(i) == published()["counts"]["compared"]:
        assert sorted(i[wrong > 0].tolist()) == sorted(
            d["index"] for d in published()["differences"]
        )
