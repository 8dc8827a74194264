"""Doodle i of a seed is one drawing, however one gets there.

Every drawing is proper pen movements with its labels.
"""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmix.worlds.doodles import CATEGORIES, STYLES, _numbers, doodles, images
from genmix.worlds.strokes import from_lines, rasterize, to_lines


@pytest.fixture(scope="module")
def many():
    return doodles(3000, seed=5)


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2990), st.integers(0, 40), st.integers(1, 50))
def test_a_doodle_has_an_address(many, start, n, chunk):
    sketches, category, style = doodles(n, seed=5, start=start, chunk=chunk)
    end = min(start + n, 3000)
    assert same(sketches[: end - start], many[0][start:end])
    assert np.array_equal(category[: end - start], many[1][start:end]) and np.array_equal(
        style[: end - start], many[2][start:end]
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 10**12), st.integers(1, 5))
def test_numbers_have_addresses(seed, start, n):
    u = _numbers(seed, start, n)
    assert u.shape[0] == n and (u >= 0).all() and (u < 1).all()
    assert np.array_equal(u[-1:], _numbers(seed, start + n - 1, 1))


def test_rows_of_numbers_do_not_overlap():
    u = _numbers(0, 0, 50)
    assert len(np.unique(u)) == u.size


def test_seeds_differ():
    a, b = doodles(20, seed=0)[0], doodles(20, seed=1)[0]
    assert not any(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_proper_pen_movements(many):
    for s in many[0]:
        q = np.cumsum(s[:, :2].astype(int), axis=0)
        assert s.dtype == np.int16 and s.ndim == 2 and s.shape[1] == 3 and len(s) >= 2
        assert set(s[:, 2].tolist()) <= {0, 1} and s[-1, 2] == 1
        assert q.min() == 0 and q.max() == 255
        assert np.array_equal(from_lines(to_lines(s)), s)
        assert ((s[1:, :2] != 0).any(axis=1) | (s[:-1, 2] == 1) | (s[1:, 2] == 1)).all(), (
            "no points on the same spot"
        )


def test_labels(many):
    _, category, style = many
    assert set(category.tolist()) == set(range(5))
    for i, c in enumerate(CATEGORIES):
        assert set(style[category == i].tolist()) == set(range(len(STYLES[c]))), c
    expected = 3000 / 5
    assert np.abs(np.bincount(category) - expected).max() < 5 * np.sqrt(expected)


def test_some_categories():
    sketches, category, style = doodles(200, seed=3, categories=("eye", "pencil"))
    assert set(category.tolist()) == {0, 1} and style.max() < 4
    x = rasterize(sketches)[:, 0].astype(float)
    rows = x.sum(axis=2) > 0
    eyes = rows[category == 0].sum(axis=1).mean()
    assert eyes < 24, "eyes are wider than high"
    assert doodles(0)[0] == [] and images(0)[0].shape == (0, 1, 28, 28)


@pytest.mark.parametrize(
    "wrong",
    [
        {"categories": ("dog",)},
        {"categories": ()},
        {"n": -1},
        {"start": -1},
        {"seed": -1},
        {"chunk": 0},
    ],
)
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match="doodles: "):
        doodles(**{"n": 1} | wrong)


def test_pencils_lie_as_their_style_says():
    sketches, _, style = doodles(400, seed=0, categories=("pencil",))
    for s, k in zip(sketches, style, strict=True):
        q = np.concatenate(to_lines(s)).astype(float)
        w, V = np.linalg.eigh(np.cov(q.T))
        angle = (
            np.degrees(np.arctan2(*V[::-1, 1])) % 180
        )  # of the long axis, y down: 0 level, 90 upright
        low, high = {
            "right": (90, 165),
            "left": (15, 90),
            "upright": (65, 115),
            "lying": (-25, 25),
        }[STYLES["pencil"][k]]
        off = (angle - (low + high) / 2 + 90) % 180 - 90
        assert abs(off) < (high - low) / 2 + 15, (STYLES["pencil"][k], angle)


def test_pictures(many):
    x, category, style = images(60, seed=5)
    assert x.shape == (60, 1, 28, 28) and x.dtype == np.uint8
    assert (
        np.array_equal(x, rasterize(many[0][:60]))
        and np.array_equal(category, many[1][:60])
        and np.array_equal(style, many[2][:60])
    )
    assert images(2, seed=5, size=64)[0].shape == (2, 1, 64, 64)
    ink = images(500, seed=1)[0].mean(axis=(1, 2, 3))
    assert ink.min() > 3 and ink.max() < 140


def test_drawings_do_not_change():
    "If this fails on purpose, say so in the changelog: published results refer to these drawings."
    s, _, _ = doodles(200, seed=0)
    digest = hashlib.sha256(np.concatenate(s).astype("<i2").tobytes()).hexdigest()
    assert digest[:16] == "d5c01290a0bddd82"
