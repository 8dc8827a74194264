"""Shapes3D's factors drawn from a formula: addresses, determinism, colors, who hides whom.

And the real pictures where they are at hand.
"""

import colorsys
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from genmix.worlds import rooms

SIZES = tuple(rooms.FACTORS.values())
TOTAL = 480_000
some_factors = st.tuples(*(st.integers(0, n - 1) for n in SIZES))


# ---------------------------------------------------------------- addresses
@given(st.lists(st.integers(0, TOTAL - 1), max_size=20))
def test_index_and_factors_are_inverse(i):
    f = rooms.factors(i)
    assert f.shape == (len(i), 6)
    assert (f >= 0).all() and (f < SIZES).all()
    if i:
        np.testing.assert_array_equal(rooms.index(f), i)


@given(some_factors)
def test_last_factor_is_fastest(f):
    expected = 0
    for value, size in zip(f, SIZES):
        expected = expected * size + value
    assert rooms.index(f) == expected


@pytest.mark.parametrize("bad", [-1, TOTAL, [0, TOTAL], [[-1]]])
def test_index_out_of_range(bad):
    with pytest.raises(IndexError, match="0 to 479,999"):
        rooms.factors(bad)
    with pytest.raises(IndexError):
        rooms.render(bad)


@pytest.mark.parametrize("bad", [0.5, "3", [0, 1.0], None, [True]])
def test_index_not_whole(bad):
    with pytest.raises(ValueError, match="whole numbers"):
        rooms.factors(bad)


def test_bad_factors():
    with pytest.raises(IndexError, match="wall_hue goes from 0 to 9"):
        rooms.index([0, 10, 0, 0, 0, 0])
    with pytest.raises(ValueError, match=r"\[n, 6\]"):
        rooms.index([[0, 0, 0]])
    with pytest.raises(ValueError):
        rooms.render([[0, 1], [2, 3]])


def test_values():
    assert [len(v) for v in rooms.VALUES.values()] == list(SIZES)
    assert rooms.VALUES["scale"][[0, -1]].tolist() == [0.75, 1.25] and rooms.VALUES["orientation"][
        [0, 7, -1]
    ].tolist() == [-30, 0, 30]


# ---------------------------------------------------------------- pictures
def test_render_gives_uint8_pictures():
    assert rooms.render([]).shape == (0, 3, 64, 64)
    assert rooms.render(5).shape == (1, 3, 64, 64)
    x = rooms.render(np.array([5, 5, 6], np.uint32))
    assert x.dtype == np.uint8 and x.flags.c_contiguous
    np.testing.assert_array_equal(x[0], x[1])


def test_pictures_do_not_depend_on_the_batch():
    i = np.random.default_rng(0).choice(TOTAL, 70, replace=False)  # more than two chunks
    x = rooms.render(i)
    order = np.random.default_rng(1).permutation(70)
    np.testing.assert_array_equal(rooms.render(i[order]), x[order])
    np.testing.assert_array_equal(np.concatenate([rooms.render(j) for j in i[:10]]), x[:10])
    np.testing.assert_array_equal(rooms.render(np.repeat(i[:3], 40)), np.repeat(x[:3], 40, 0))


def test_another_process_draws_the_same():
    code = (
        "import hashlib; from genmix.worlds import rooms; "
        "print(hashlib.sha256(rooms.render([0, 77_777, 479_999]).tobytes()).hexdigest())"
    )
    first, again = (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    )
    assert first == again


@settings(max_examples=12, deadline=None)
@given(some_factors)
def test_layers_sum_to_what_the_rays_say(f):
    difference = 255 * rooms.raycast(f) - rooms.render(rooms.index(f))[0]
    assert abs(difference).max() < 0.55


def test_hues_are_those_of_the_color_circle():
    expected = [colorsys.hsv_to_rgb(i / 10, 1, 1) for i in range(10)]
    np.testing.assert_allclose(rooms.HUES, expected)
    sky = rooms.render(0)[0, :, 0, 0]
    assert sky.tolist() == rooms.parameters()["sky"]


@pytest.mark.parametrize("factor", [0, 1, 2])
def test_a_hue_paints_only_its_own_material(factor):
    f = np.tile([3, 5, 8, 4, 2, 3], (10, 1))
    f[:, factor] = np.arange(10)
    x = rooms.render(rooms.index(f))
    changed = (x != x[:1]).any((0, 1))
    material = rooms.trace(
        np.radians(rooms.VALUES["orientation"][3]), rooms.VALUES["scale"][4], 2, rooms.parameters()
    )[0]
    material = material.reshape(64, 4, 64, 4)
    own = (material == factor + 1).any((1, 3))
    only = (material == factor + 1).all((1, 3))
    assert not (changed & ~own).any()
    assert changed[only].all()
    channel = (
        rooms.HUES[:, :] == 0
    )  # where a hue has none of a channel, floor and walls show none of it
    if factor < 2:
        for h in range(10):
            assert (x[h][channel[h]][:, only] == 0).all()


def test_the_object_hides_what_is_behind_it_and_hides_nothing_before_it():
    p = rooms.parameters()
    c, d, empty, t, *_ = rooms.empty_room(0.2, p, 1)
    for shape in range(4):
        body = rooms.solid(shape, 1.0, p)
        t_object = body[0](c, d, *body[1:])
        material = rooms.trace(0.2, 1.0, shape, p, 1)[0]
        np.testing.assert_array_equal(material == rooms.OBJECT, t_object < t)
        np.testing.assert_array_equal(material[t_object >= t], empty[t_object >= t])
        assert 20 < (material == rooms.OBJECT).sum() < 1500


def test_larger_scale_larger_object():
    p = rooms.parameters()
    for shape in range(4):
        area = [
            (rooms.trace(0, s, shape, p, 2)[0] == rooms.OBJECT).sum() for s in rooms.VALUES["scale"]
        ]
        assert (np.diff(area) > 0).all()


def test_the_round_solids_look_the_same_from_everywhere():
    p = rooms.parameters()
    for shape in (1, 2, 3):
        seen = [
            rooms.trace(np.radians(v), 1.0, shape, p, 2)[0] == rooms.OBJECT for v in (-30, 0, 30)
        ]
        assert (seen[0] == seen[1]).mean() > 0.9999 and (seen[1] == seen[2]).mean() > 0.9999


def test_a_shadow_darkens_and_never_reddens():
    p = rooms.parameters()
    *_, empty, _, _, m0 = rooms.empty_room(0.0, p, 2)
    material, m, w = rooms.trace(0.0, 1.25, 3, p, 2)
    floor = material == rooms.FLOOR
    assert (m[floor] <= m0[floor]).all() and (m[floor] < m0[floor]).any() and (w[floor] == 0).all()
    assert (m > 0)[material != rooms.SKY].all()


def test_parameters_are_a_copy():
    rooms.parameters()["lamp"][0] = 99
    assert rooms.parameters()["lamp"][0] != 99


def test_memory_grows_with_the_geometries():
    code = (
        "from genmix.worlds import rooms; assert not rooms._table()[1].any(); "
        "rooms.render(range(0, 480_000, 48_000)); "
        "print(rooms._table()[1].sum(), rooms._table()[0].nbytes)"
    )
    made, size = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert 1 <= int(made) <= 10 and int(size) < 90e6


# ---------------------------------------------------------------- published and real
def test_published_goals():
    fit = rooms.published()
    test = fit["errors"]["frames"]["test"]
    assert test["mean_error"] <= 12 and test["mean_iou"] >= 0.9
    assert {r["half"] for r in fit["frames"]} == {"fit", "test"}
    assert all((r["frame"] % 2 == 0) == (r["half"] == "fit") for r in fit["frames"])
    assert all(len(s) == 64 for s in fit["provenance"]["sha256"].values())


@pytest.fixture
def real():
    root = os.environ.get("GENMIX_DATA")
    path = Path(root or "", "shapes3d", "gif_53.npz")
    if not root or not path.is_file():
        pytest.skip(
            "needs real Shapes3D pictures: "
            "set GENMIX_DATA to a folder that holds shapes3d/gif_53.npz"
        )
    with np.load(path, allow_pickle=False) as z:
        return z["images"].transpose(0, 3, 1, 2).astype(float)


def test_real_frames_are_as_near_as_published(real):
    rows = [r for r in rooms.published()["frames"] if r["half"] == "test"]
    x = rooms.render(rooms.index([r["factors"] for r in rows]))
    error = [abs(x[i] - real[r["frame"]]).mean() for i, r in enumerate(rows)]
    np.testing.assert_allclose(error, [r["error"] for r in rows], atol=0.1)
    assert np.mean(error) <= 12


def test_each_real_frame_is_nearest_to_its_own_neighborhood(real):
    "Of all 15 orientations, the one nearest to a real frame is the frame's own, or next to it."
    f = np.array([[0, 6, 3, 0, 0, o] for o in range(15)])
    x = rooms.render(rooms.index(f)).astype(float)
    for o in range(15):
        assert abs(int(abs(x - real[o]).mean((1, 2, 3)).argmin()) - o) <= 1


def test_the_tool_refuses_a_folder_without_pictures(tmp_path, python):
    done = python(ROOT / "tools" / "fit_rooms.py", "--real", tmp_path)
    assert done.returncode != 0 and "gif_53.npz" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("fit_rooms", ROOT / "tools" / "fit_rooms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tool_finds_factors_and_shift_of_pictures_that_we_drew(tool):
    p, f = (
        rooms.parameters(),
        [(0, 6, 3, 2, 0, 3), (4, 1, 8, 5, 2, 11), (7, 3, 2, 6, 3, 7), (2, 9, 5, 1, 1, 14)],
    )
    drawn = [tool.picture(tool.moved(p, (0.2, -0.4)), g, 4)[0] for g in f]
    found = tool.infer(p, drawn, k=2, keep=4)
    assert [g for g, _ in found] == f
    np.testing.assert_allclose([s for _, s in found], [(0.2, -0.4)] * 4, atol=0.3)  # pixels


def test_the_tool_finds_the_objects_outline(tool):
    p = rooms.parameters()
    for shape in range(4):
        x, material = tool.picture(p, (0, 6, 3, 4, shape, 12), 4)
        ours, found = (
            (material == rooms.OBJECT).mean((1, 3)) > 0.5,
            tool.object_mask(x, (0, 6, 3, 4, shape, 12)),
        )
        assert (ours & found).sum() / (ours | found).sum() > 0.95
    judged = tool.judge(p, x, (0, 6, 3, 4, 3, 12))
    assert judged["error"] < 0.3 and judged["iou"] > 0.95
    assert tool.judge(p, x, (3, 6, 3, 4, 3, 12))["iou"] is None  # the floor shares the object's hue
