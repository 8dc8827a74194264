"""Arms: seven factors, 1,036,800 images from a formula.

And how near they come to real frames of MPI3D's toy set. Nothing here needs a data file but the
last tests, which run when GENMIX_DATA holds mpi3d/gif_frames.npz.
"""

import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from genmix.worlds import arms

anything = st.integers(0, arms.COUNT - 1)


def some(n, seed=0):
    return np.random.default_rng(seed).integers(0, arms.COUNT, n)


# ---------------------------------------------------------------- numbers and factors
def test_every_image_has_its_factors_and_every_combination_its_number():
    i = np.arange(arms.COUNT)
    f = arms.factors(i)
    assert f.shape == (1_036_800, 7)
    assert np.array_equal(arms.index(f), i)
    assert f.max(0).tolist() == [n - 1 for n in arms.FACTORS.values()]


def test_the_last_factor_runs_fastest_as_in_the_official_files():
    assert arms.factors([0, 1, 40, 1600, 4800, 14400, 28800, 172800]).tolist() == [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0],
    ]
    assert (
        arms.VALUES["color"][5] == "olive"
        and arms.VALUES["shape"][3] == "hexagonal"
        and arms.VALUES["background"][1] == "sea green"
    )


@pytest.mark.parametrize("bad", [-1, arms.COUNT, [0, arms.COUNT], 2**62])
def test_numbers_out_of_range_are_refused_with_the_range(bad):
    for ask in (arms.factors, arms.render):
        with pytest.raises(IndexError, match="0 to 1036799"):
            ask(bad)


@pytest.mark.parametrize("bad", [0.5, [1.0], "7", [[1, 2], [3, 4]], [True]])
def test_what_is_not_a_list_of_whole_numbers_is_refused(bad):
    with pytest.raises(ValueError, match="whole number"):
        arms.render(bad)


@pytest.mark.parametrize("name, k", [(n, k) for k, n in enumerate(arms.FACTORS)])
def test_factors_out_of_range_are_refused_by_name(name, k):
    for value in (-1, arms.FACTORS[name]):
        row = [0] * 7
        row[k] = value
        with pytest.raises(IndexError, match=name):
            arms.index(row)
    with pytest.raises(ValueError, match="color, shape"):
        arms.index([0] * 6)


# ---------------------------------------------------------------- rendering
def test_shape_type_and_nothing():
    x = arms.render(some(5))
    assert x.shape == (5, 3, 64, 64) and x.dtype == np.uint8
    assert arms.render(7).shape == (1, 3, 64, 64)
    assert arms.render(np.array([], dtype=int)).shape == (0, 3, 64, 64)


@settings(max_examples=30, deadline=None)
@given(st.lists(anything, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_an_image_is_the_same_in_any_company(numbers, random):
    alone = np.concatenate([arms.render(i) for i in numbers])
    order = list(range(len(numbers)))
    random.shuffle(order)
    assert np.array_equal(arms.render(np.array(numbers)[order]), alone[order])


def test_a_large_batch_gives_the_same_bytes_as_small_ones():
    i = some(700, seed=1)
    x = arms.render(i)
    assert np.array_equal(x[::-1], arms.render(i[::-1]))
    assert np.array_equal(x, np.concatenate([arms.render(part) for part in np.array_split(i, 50)]))


def test_another_process_draws_the_same_bytes():
    code = (
        "import hashlib, numpy as np; from genmix.worlds import arms; "
        "images = arms.render(np.arange(0, arms.COUNT, 9973)); "
        "print(hashlib.sha256(images.tobytes()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert (
        done.stdout.strip()
        == hashlib.sha256(arms.render(np.arange(0, arms.COUNT, 9973)).tobytes()).hexdigest()
    )


def test_the_result_belongs_to_the_caller():
    x = arms.render(3)
    x[:] = 0
    assert arms.render(3).any()
    p = arms.parameters()
    p["focal"] = 0
    p["camera"][:] = 0
    assert arms.parameters()["focal"] > 0 and arms.parameters()["camera"].any()


def test_the_painter_agrees_with_a_depth_test():
    i = some(40, seed=2)
    error = np.abs(arms.render(i) - np.rint([arms.raycast(k) for k in i])).mean((1, 2, 3))
    assert error.mean() < 0.15 and error.max() < 0.4


def test_no_object_is_cut_by_its_box():
    p = arms.parameters()
    f = arms.factors(some(3000, seed=3))
    for s in range(6):
        for z in range(2):
            i = np.flatnonzero((f[:, 1] == s) & (f[:, 2] == z))
            _, A, x0, y0, _ = arms._object(p, s, z, f[i, 0], f[i, 3], f[i, 5], f[i, 6])
            B = A.shape[1]
            for edge, inside in (
                (A[:, 0], y0 > 0),
                (A[:, -1], y0 + B < 64),
                (A[:, :, 0], x0 > 0),
                (A[:, :, -1], x0 + B < 64),
            ):
                assert not edge[inside].any(), f"shape {s} size {z} touches the edge of its box"


def test_every_factor_changes_the_image():
    "Colors, cameras and backgrounds always show; shape, size and motions nearly always."
    i = some(300, seed=4)
    f, x = arms.factors(i), arms.render(i)
    for k, (name, n) in enumerate(arms.FACTORS.items()):
        g = f.copy()
        g[:, k] = (g[:, k] + 1) % n
        same = (arms.render(arms.index(g)) == x).all((1, 2, 3)).mean()
        assert same == 0 if name in ("camera", "background") else same < 0.02, (name, same)


def test_colors_come_out_as_named():
    f = np.tile([0, 1, 1, 1, 0, 22, 21], (6, 1))
    f[:, 0] = range(6)
    x = arms.render(arms.index(f)).astype(int)
    mask = np.ptp(x, axis=0).max(0) > 30
    r, g, b = x[:, :, mask].mean(-1).T
    assert np.ptp([r[0], g[0], b[0]]) < 5 and r[0] > 150  # white
    assert g[1] > 2 * max(r[1], b[1]) and r[2] > 4 * max(g[2], b[2]) and b[3] > 1.5 * g[3]
    assert (
        r[4] > g[4] > b[4] and r[4] < 120 and abs(r[5] - g[5]) < 10 and g[5] > 1.5 * b[5]
    )  # brown, olive


def test_size_and_camera_do_what_their_names_say():
    p = arms.parameters()
    h, v = np.meshgrid(np.arange(40), np.arange(40))
    h, v = h.ravel(), v.ravel()
    n = np.zeros(len(h), int)
    for s in range(6):
        small, large = (arms._object(p, s, z, n, n + 1, h, v)[1].sum((1, 2)) for z in (0, 1))
        assert (large > small).all()
    assert p["camera"][0, 2] > p["camera"][1, 2] > p["camera"][2, 2]  # top, center, bottom
    assert (np.diff(p["camera"][:, 3]) < 0).all()


def test_tables_stay_small():
    arms.render(some(500, seed=5))
    tables = [a for z in range(2) for c in range(3) for a in arms._robots(z, c)]
    assert sum(a.nbytes for a in tables) < 12e6


def test_importing_needs_numpy_only():
    code = (
        "import sys; from genmix.worlds import arms; heavy = 'torch matplotlib scipy pandas'; "
        "print([m for m in heavy.split() if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


# ----------------------------------------------------------- what is published, and the real frames
def test_the_published_file_says_where_it_comes_from():
    text = (ROOT / "genmix" / "published" / "arms.json").read_text(encoding="utf-8")
    stored = json.loads(text)
    assert (
        stored["provenance"]["sha256"]
        == "1a3047d1cbe5d9f967f70375fdf55f85ea1951e61fb34730c3ae2d2c879e840d"
    )
    assert (
        "CC BY 4.0" in stored["provenance"]["data"]
        and "fit_arms.py" in stored["provenance"]["command"]
    )
    held = stored["errors"]["held_out"]
    assert (
        held["frames"] == 140
        and set(held["rgb_error_by_factor"]) == set(arms.FACTORS)
        and held["never_fitted"]["frames"] == 40
    )
    assert np.isfinite(np.concatenate([np.ravel(v) for v in stored["parameters"].values()])).all()


@pytest.fixture
def frames():
    "The real frames of the toy set, or a skip that says what is missing."
    file = Path(os.environ.get("GENMIX_DATA", ""), "mpi3d", "gif_frames.npz")
    if not os.environ.get("GENMIX_DATA") or not file.is_file():
        pytest.skip(
            "needs real MPI3D frames: set GENMIX_DATA to a folder that holds mpi3d/gif_frames.npz"
        )
    raw = file.read_bytes()
    if hashlib.sha256(raw).hexdigest() != arms.published()["provenance"]["sha256"]:
        pytest.skip(
            "mpi3d/gif_frames.npz in GENMIX_DATA is not the file that the arms were fitted to"
        )
    with np.load(io.BytesIO(raw), allow_pickle=False) as z:
        return {n: z[n].transpose(0, 1, 4, 2, 3) for n in ("toy1", "toy2")}


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("fit_arms", ROOT / "tools" / "fit_arms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sweeps_go_up_down_and_up_again(tool):
    assert tool.cycle(3, 6).tolist() == [3, 4, 5, 5, 5, 5, 4, 3, 3, 2, 2, 1, 0, 0, 0, 0, 1, 2, 2, 3]
    assert tool.cycle(22, 40).tolist() == [
        22,
        26,
        30,
        34,
        38,
        37,
        33,
        29,
        25,
        21,
        17,
        13,
        9,
        5,
        1,
        2,
        6,
        10,
        14,
        18,
    ]


def test_the_published_errors_are_what_comes_out_on_the_real_frames(frames, tool):
    F = {n: tool.sweeps(s) for n, s in tool.START.items()}
    now, stored = tool.evaluate(frames, F, slice(1, 20, 2)), arms.published()["errors"]["held_out"]
    assert (
        abs(now["rgb_error"] - stored["rgb_error"]) < 0.01
        and abs(now["iou"] - stored["iou"]) < 0.005
    )
    assert now["rgb_error"] < 2.0 and now["iou"] > 0.83


def test_the_starting_values_of_the_motions_are_those_that_fit_best(frames, tool):
    F = {n: tool.sweeps(s) for n, s in tool.START.items()}
    middles, ring = tool.landmarks(frames, F)
    best = tool.fit_landmarks(middles, ring)[1]
    for k in range(4):
        for step in (-1, 1):
            assert (
                tool.fit_landmarks(middles, ring, tuple(np.eye(4, dtype=int)[k] * step))[1] > best
            )
