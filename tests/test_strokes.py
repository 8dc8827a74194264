"""Drawings survive the way to polylines and back.

Pictures depend on the drawing alone, and on nothing that should not matter.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmix.readers.files import DataError
from genmix.worlds.strokes import (
    PADDING,
    THICKNESS,
    from_lines,
    from_simplified,
    rasterize,
    to_lines,
)

step = st.integers(-300, 300)
points = st.lists(st.tuples(step, step, st.integers(0, 1)), min_size=1, max_size=30)
sketch = points.map(lambda rows: np.array([*rows[:-1], (*rows[-1][:2], 1)], dtype=np.int16))
batch = st.lists(sketch, min_size=1, max_size=6)


def slow(s, size=28, detail=2):
    "The definition, pixel by pixel: distance to the pen's path, a ramp, the mean over blocks."
    q, pen, big = np.cumsum(s[:, :2].astype(int), axis=0), s[:, 2], size * detail
    low, high = q.min(axis=0), q.max(axis=0)
    q = (q - (low + high) / 2) * (
        big * (1 - 2 * PADDING - THICKNESS) / max((high - low).max(), 1)
    ) + big / 2
    X, Y = np.meshgrid(np.arange(big) + 0.5, np.arange(big) + 0.5)
    d = np.full((big, big), np.inf)
    for i in range(len(q)):
        a = q[i - 1] if i and not pen[i - 1] else q[i]
        v = q[i] - a
        t = np.clip(((X - a[0]) * v[0] + (Y - a[1]) * v[1]) / max(v @ v, 1e-12), 0, 1)
        d = np.minimum(d, np.hypot(X - a[0] - t * v[0], Y - a[1] - t * v[1]))
    c = np.rint(255 * np.clip(big * THICKNESS / 2 + 0.5 - d, 0, 1))
    return c.reshape(size, detail, size, detail).mean(axis=(1, 3))


# ---------------------------------------------------------------- the format
@given(sketch)
def test_there_and_back(s):
    back = from_lines(to_lines(s))
    assert back.dtype == np.int16 and np.array_equal(back, s)


@given(st.lists(st.lists(st.tuples(step, step), min_size=1, max_size=9), max_size=5))
def test_back_and_there(lines):
    again = to_lines(from_lines(lines))
    assert [line.tolist() for line in again] == [[list(p) for p in line] for line in lines]


def test_the_last_stroke_need_not_be_lifted():
    assert len(to_lines([[0, 0, 0], [5, 0, 0]])) == 1
    assert np.array_equal(rasterize([[[0, 0, 0], [5, 0, 0]]]), rasterize([[[0, 0, 0], [5, 0, 1]]]))


def test_nothing_is_drawn_by_no_lines():
    assert (
        from_lines([]).shape == (0, 3)
        and to_lines(np.zeros((0, 3), int)) == []
        and not rasterize([from_lines([])]).any()
    )
    assert rasterize([]).shape == (0, 1, 28, 28)


def test_long_drawings_do_not_overflow():
    far = np.array([[32767, -32768, 0]] * 5000 + [[0, 0, 1]], dtype=np.int16)
    assert to_lines(far)[0][-1].tolist() == [32767 * 5000, -32768 * 5000]
    assert rasterize([far]).max() == 255


@pytest.mark.parametrize(
    "wrong, says",
    [
        (np.zeros((3, 2), int), r"drawing 0: expected whole numbers \[n, 3\]"),
        (np.zeros((3, 3)), "found float64"),
        (np.full((1, 3), np.nan), "found float64"),
        (np.zeros(3, int), r"found int64 \[3\]"),
        ([[0, 0, 2]], "0 or 1, found 2"),
        ([[0, 0, -1]], "0 or 1, found -1"),
        ([[2**40, 0, 1]], "cannot be added up"),
        ([[0, 0, 1], [0]], "rows of equal length"),
        ([["a", 0, 1]], "expected"),
        (None, "expected"),
    ],
    ids=range(10),
)
def test_malformed_drawings(wrong, says):
    for f in (to_lines, lambda s: rasterize([s])):
        with pytest.raises(DataError, match=says):
            f(wrong)


def test_the_message_counts_drawings():
    good = [[0, 0, 1]]
    with pytest.raises(DataError, match="drawing 2"):
        rasterize([good, good, [[1, 1, 0], [0, 0, 5]], good])


@pytest.mark.parametrize(
    "lines",
    [
        [[]],
        [[[1, 2, 3]]],
        [[[np.nan, 0]]],
        [[[0, 0], [40000, 0]]],
        [[[1, 2], [3]]],
        ["x"],
        [[None]],
    ],
)
def test_malformed_lines(lines):
    with pytest.raises(DataError):
        from_lines(lines)


@pytest.mark.parametrize("drawing", [[[[1, 2], [3]]], [[[1, 2]]], [[[], []]], [[["a"], ["b"]]]])
def test_malformed_simplified_drawings(drawing):
    with pytest.raises(DataError):
        from_simplified(drawing)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"thickness": 0},
        {"thickness": np.nan},
        {"padding": 0.5},
        {"padding": -0.1},
        {"detail": 0},
        {"chunk": 0},
    ],
)
def test_no_room_to_draw(options):
    with pytest.raises(ValueError, match="no room to draw"):
        rasterize([[[0, 0, 1]]], **options)


# ---------------------------------------------------------------- the pictures
@settings(max_examples=30, deadline=None)
@given(batch)
def test_fast_is_the_definition(sketches):
    x = rasterize(sketches)
    assert x.shape == (len(sketches), 1, 28, 28) and x.dtype == np.uint8
    for s, image in zip(sketches, x, strict=True):
        assert np.abs(image[0] - slow(s)).max() <= 1.01


@settings(max_examples=30, deadline=None)
@given(batch, st.integers(1, 4), st.integers(1, 3))
def test_neighbors_and_chunks_do_not_matter(sketches, chunk, detail):
    x = rasterize(sketches, detail=detail)
    assert np.array_equal(x, rasterize(sketches, detail=detail, chunk=chunk))
    assert np.array_equal(x[::-1], rasterize(sketches[::-1], detail=detail))
    assert np.array_equal(x[:1], rasterize(sketches[:1], detail=detail))


@settings(max_examples=30, deadline=None)
@given(batch, step, step, st.integers(2, 9))
def test_place_and_scale_do_not_matter(sketches, dx, dy, k):
    x = rasterize(sketches).astype(int)
    moved = [np.concatenate([s[:1].astype(int) + [[dx, dy, 0]], s[1:]]) for s in sketches]
    assert np.array_equal(x, rasterize(moved))
    large = [
        s
        for s in sketches
        if len(s) > 1 and np.ptp(np.cumsum(s[:, :2].astype(int), axis=0), axis=0).max() > 0
    ]
    if large:
        assert (
            np.abs(
                rasterize([s.astype(int) * [k, k, 1] for s in large]).astype(int) - rasterize(large)
            ).max()
            <= 1
        )


@settings(max_examples=30, deadline=None)
@given(batch, st.sampled_from([16, 28, 64]), st.floats(0.03, 0.12), st.floats(0, 0.2))
def test_ink_stays_inside_the_padding(sketches, size, thickness, padding):
    x = rasterize(sketches, size=size, thickness=thickness, padding=padding, detail=2)[:, 0]
    free = int(size * padding - 0.26)  # the ramp reaches a quarter of a pixel further at detail 2
    if free > 0:
        assert (
            not x[:, :free].any()
            and not x[:, -free:].any()
            and not x[:, :, :free].any()
            and not x[:, :, -free:].any()
        )
    assert (x.reshape(len(x), -1).max(axis=1) > 0).all()


def test_mirrored_drawings_give_mirrored_pictures():
    rng = np.random.default_rng(0)
    s = np.column_stack([rng.integers(-50, 50, size=(40, 2)), rng.random(40) < 0.2]).astype(
        np.int16
    )
    x, y, z = rasterize([s, s * [-1, 1, 1], s[:, [1, 0, 2]]])[:, 0].astype(int)
    assert np.abs(x[:, ::-1] - y).max() <= 1 and np.abs(x.T - z).max() <= 1


def test_a_dot_is_round_and_in_the_middle():
    x = rasterize([[[7, 7, 1]]], size=28, detail=4)[0, 0].astype(float)
    assert np.array_equal(x, x[::-1]) and np.array_equal(x, x.T)
    area = np.pi * (28 * THICKNESS / 2) ** 2
    assert abs(x.sum() / 255 - area) / area < 0.05


def test_a_line_has_the_area_of_a_line():
    x = rasterize([[[0, 0, 0], [100, 37, 1]]], size=64, detail=4).astype(float)
    w, length = 64 * THICKNESS, 64 * (1 - 2 * PADDING - THICKNESS) * np.hypot(1, 0.37)
    assert abs(x.sum() / 255 / (length * w + np.pi * w * w / 4) - 1) < 0.01


# ---------------------------------------------------------------- real drawings
def real(*names):
    root = os.environ.get("GENMIX_DATA")
    paths = [Path(root or ".") / "quickdraw" / name for name in names]
    missing = [f"quickdraw/{n}" for n, p in zip(names, paths, strict=True) if not p.is_file()]
    if root is None or missing:
        pytest.skip(
            f"GENMIX_DATA does not hold {', '.join(missing) or 'anything'} (Google QuickDraw)"
        )
    return paths


@pytest.mark.parametrize("category", ["cat", "eye", "snowflake"])
def test_official_bitmaps(category):
    lines, bitmaps = real(f"simplified25_{category}.ndjson", f"numpy_bitmap/{category}.npy")
    sketches = [
        from_simplified(json.loads(line)["drawing"])
        for line in lines.read_text(encoding="utf-8").splitlines()
    ]
    official = np.load(bitmaps, allow_pickle=False)[: len(sketches)].reshape(-1, 1, 28, 28)
    ours = rasterize(sketches)
    assert np.abs(ours.astype(int) - official).mean() < 2
    assert np.corrcoef(ours.ravel(), official.ravel())[0, 1] > 0.995
