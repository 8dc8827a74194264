"""The disentanglement metrics: against loops written from the definitions, against scikit-learn, on
codes with known scores; tables that cannot work."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from genmix import metrics
from genmix.metrics import (
    ABOUT,
    CHEAP,
    COSTLY,
    MetricError,
    MetricWarning,
    beta_vae_score,
    concentration,
    dci,
    discretize,
    entropy,
    evaluate,
    explicitness,
    factor_vae_score,
    im,
    mig,
    modularity,
    mutual_information,
    paired,
    per_factor,
    sap,
    sap_matrix,
    standard_error,
    svm_lines,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score, roc_auc_score
from sklearn.svm import LinearSVC

GRID = np.array(
    list(itertools.product(range(6), range(6), range(2))) * 20
)  # every combination: exactly independent factors
FAST = RandomForestClassifier(10, max_depth=6, max_features=None)


def table(seed=0, N=600, L=4, sizes=(2, 3, 7)):
    "Codes that mix factors, and the factors; some values are rare."
    rng = np.random.default_rng(seed)
    v = np.stack([np.minimum(rng.integers(k, size=N), rng.integers(k, size=N)) for k in sizes], 1)
    return v @ rng.normal(size=(len(sizes), L)) + rng.normal(size=(N, L)), v


# ---------------------------------------------------------------- information
@given(
    st.integers(0, 10**6),
    st.integers(2, 40),
    st.sampled_from(["normal", "integers", "heavy", "constant", "two"]),
)
@settings(max_examples=60, deadline=None)
def test_bins_are_numpys(seed, bins, kind):
    rng = np.random.default_rng(seed)
    z = {
        "normal": lambda: rng.normal(size=(50, 2)),
        "integers": lambda: rng.integers(-5, 6, (50, 2)) * 1.0,
        "heavy": lambda: rng.standard_cauchy((50, 2)),
        "constant": lambda: np.full((50, 2), rng.normal()),
        "two": lambda: rng.integers(0, 2, (50, 2)) * 0.1,
    }[kind]()
    assert (
        discretize(z, bins)
        == np.stack([np.digitize(x, np.histogram(x, bins)[1][:-1]) for x in z.T], 1)
    ).all()


def test_bins_of_neighbouring_numbers():
    "Where np.histogram refuses, since no 20 bins fit between two numbers, there are still bins."
    z = np.where(np.arange(20) % 2, 1.0, np.nextafter(1.0, 2.0))[:, None]
    assert set(np.unique(discretize(z))) <= set(range(1, 21)) and len(np.unique(discretize(z))) == 2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bins", [2, 20, 57])
def test_information_is_scikit_learns(seed, bins):
    z, v = table(seed)
    d = discretize(z, bins)
    loop = [[mutual_info_score(v[:, j], d[:, i]) for j in range(3)] for i in range(4)]
    np.testing.assert_allclose(mutual_information(z, v, bins), loop, atol=1e-12)
    np.testing.assert_allclose(entropy(v), [scipy_entropy(np.bincount(x)) for x in v.T], atol=1e-12)


def test_information_of_a_dead_code_and_of_a_constant_factor_is_zero():
    z, v = table()
    z[:, 1], v[:, 2] = 3.3, 4
    m = mutual_information(z, v)
    assert (
        (m[1] == 0).all()
        and (m[:, 2] == 0).all()
        and (m[[0, 2, 3], :2] > 0).all()
        and entropy(v)[2] == 0
    )


def test_gaussian_information():
    rng = np.random.default_rng(0)
    x, e = rng.normal(size=(2, 200_000))
    for rho in (0.5, 0.9):
        y = rho * x + math.sqrt(1 - rho**2) * e
        found = mutual_information(x[:, None], discretize(y[:, None], 60) - 1, bins=60)[0, 0]
        assert found == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.02)


def test_bias_of_codes_that_know_nothing():
    rng = np.random.default_rng(0)
    for N, B, K in ((2000, 20, 10), (5000, 20, 40), (2000, 5, 3)):
        found = mutual_information(rng.random((N, 400)), rng.integers(K, size=(N, 1)), B).mean()
        assert found == pytest.approx((B - 1) * (K - 1) / (2 * N), rel=0.15)


# ---------------------------------------------------------------- MIG and I_m
@pytest.mark.parametrize("seed", range(6))
def test_mig_by_hand(seed):
    z, v = table(seed)
    total = 0
    for j in range(3):
        m = sorted(
            mutual_info_score(v[:, j], np.digitize(x, np.histogram(x, 20)[1][:-1])) for x in z.T
        )
        total += (m[-1] - m[-2]) / mutual_info_score(v[:, j], v[:, j])
    assert mig(z, v) == pytest.approx(total / 3, abs=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_im_is_the_best_of_all_assignments(seed, L, F):
    rng = np.random.default_rng(seed)
    v = rng.integers(3, size=(60, F))
    v[:3] = np.arange(3)[:, None]
    z = v @ rng.normal(size=(F, L)) + rng.normal(size=(60, L))
    m, found = mutual_information(z, v), im(z, v)
    if L >= F:
        best = max(
            sum(m[i, j] for j, i in enumerate(p)) for p in itertools.permutations(range(L), F)
        )
    else:
        best = max(
            sum(m[i, j] for i, j in enumerate(p)) for p in itertools.permutations(range(F), L)
        )
    assert found.nats == pytest.approx(best, abs=1e-12)
    used = found.codes[found.codes >= 0]
    assert len(found.codes) == F and len(used) == min(L, F) == len(set(used.tolist()))
    assert sum(m[i, j] for j, i in enumerate(found.codes) if i >= 0) == pytest.approx(found.nats)
    assert found.share == pytest.approx(found.nats / np.minimum(entropy(v), math.log(20)).sum())


def test_perfect_duplicated_rotated_dead():
    assert (
        mig(GRID, GRID) == pytest.approx(1)
        and im(GRID, GRID).share == pytest.approx(1)
        and modularity(GRID, GRID) == pytest.approx(1)
    )
    assert mig(GRID[:, [0, 1, 2, 0, 1, 2]], GRID) == pytest.approx(0, abs=1e-12) and im(
        GRID[:, [0, 1, 2, 0, 1, 2]], GRID
    ).share == pytest.approx(1)
    dead = np.hstack([GRID, np.full((len(GRID), 2), 0.7)])
    assert mig(dead, GRID) == pytest.approx(1) and modularity(dead, GRID) == pytest.approx(3 / 5)
    turned = np.column_stack([GRID[:, 0] - GRID[:, 1], GRID[:, 0] + GRID[:, 1]])
    assert mig(turned, GRID[:, :2]) == pytest.approx(0, abs=1e-12) and modularity(
        turned, GRID[:, :2]
    ) == pytest.approx(0, abs=1e-12)
    assert (
        mig(np.zeros((40, 3)), GRID[:40]) == 0
        and im(np.zeros((40, 3)), GRID[:40]).nats == 0
        and modularity(np.zeros((40, 3)), GRID[:40]) == 0
    )
    assert mig(GRID[:, :1], GRID[:, :1]) == pytest.approx(1)  # one code, one factor


def test_information_metrics_see_neither_order_nor_sign_nor_scale():
    z, v = table(3, N=2000)
    other = (z * [-1, 30, 0.01, 2] + [5, 0, -1, 100])[:, [2, 3, 1, 0]]
    for metric in (mig, modularity, lambda *a: im(*a).nats):
        assert metric(other, v[:, ::-1]) == pytest.approx(metric(z, v), abs=1e-9)
    assert im(other, v).codes.tolist() == [[2, 3, 1, 0].index(i) for i in im(z, v).codes]


# ---------------------------------------------------------------- SAP
def judge(x, y, C=0.01):
    return LinearSVC(C=C, class_weight="balanced", dual=False, tol=1e-11, max_iter=20_000).fit(
        x[:, None], y
    )


@pytest.mark.parametrize("C", [0.01, 1.0])
@pytest.mark.parametrize("K", [2, 3, 9])
@pytest.mark.parametrize(
    "kind", ["normal", "separable", "offset", "rounded", "tiny", "huge", "skewed"]
)
def test_machines_are_liblinears(kind, K, C):
    rng = np.random.default_rng(K)
    y = np.minimum(rng.integers(K, size=500), rng.integers(K, size=500))
    e = rng.normal(size=500)
    x = {
        "normal": y + e,
        "separable": 3.0 * y,
        "offset": 200 + y + e,
        "rounded": np.round(y + e),
        "tiny": 1e-3 * (y + e),
        "huge": 50 * (y + e),
        "skewed": np.exp(y + e),
    }[kind]
    values, w, b = svm_lines(x[:, None], y, C)
    theirs = judge(x, y, C)
    assert (values == theirs.classes_).all() and w.shape == b.shape == (1, K if K > 2 else 1)

    def objective(w, b, k):
        positive = y == k
        weight = np.where(
            positive,
            C * len(y) / (K * positive.sum()),
            C if K > 2 else C * len(y) / (2 * (~positive).sum()),
        )
        return (
            0.5 * (w * w + b * b)
            + (weight * np.maximum(0, 1 - np.where(positive, 1, -1) * (w * x + b)) ** 2).sum()
        )

    for i, k in enumerate(range(K) if K > 2 else [1]):
        mine, other = (
            objective(w[0, i], b[0, i], k),
            objective(theirs.coef_[i, 0], theirs.intercept_[i], k),
        )
        assert mine <= other * (1 + 1e-9)  # never worse than the general solver ...
        step = 1e-3 * max(abs(w[0, i]), 1e-6)
        assert all(
            objective(w[0, i] + s * step, b[0, i] + t * 1e-3, k) > mine
            for s, t in ((1, 0), (-1, 0), (0, 1), (0, -1))
        )  # ... and a minimum
    if kind not in (
        "skewed",
        "huge",
        "offset",
    ):  # where the general solver reaches its own tolerance
        np.testing.assert_allclose(
            w[0], theirs.coef_[:, 0], atol=1e-4 * np.abs(theirs.coef_).max() + 1e-7
        )
        np.testing.assert_allclose(b[0], theirs.intercept_, atol=1e-4)


@pytest.mark.parametrize(
    "offset, scale", [(0, 1e-9), (0, 1e9), (1e7, 1), (-1e5, 1e-3), (0, 1e-200), (0, 1e90)]
)
def test_machines_of_codes_far_from_zero_and_of_any_size(offset, scale):
    rng = np.random.default_rng(0)
    y = rng.integers(5, size=800)
    x = offset + scale * (y + rng.normal(size=800))
    for labels in (y, y > 2):
        _, w, b = svm_lines(x[:, None], labels)
        assert np.isfinite(w).all() and np.isfinite(b).all()
    if offset == 0 and scale > 1e-100:  # two classes: as good as a cut between the means
        cut = (x > (x[y > 2].mean() + x[y < 3].mean()) / 2) == (y > 2)
        assert ((x * w[0] + b[0] > 0) == (y > 2)).mean() > cut.mean() - 0.03


def test_all_codes_at_once_are_each_alone():
    z, v = table(1, L=6)
    _, w, b = svm_lines(z, v[:, 2])
    for i in range(6):
        _, one, two = svm_lines(z[:, [i]], v[:, 2])
        np.testing.assert_allclose(one[0], w[i], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(two[0], b[i], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_sap_by_hand(seed):
    z, v = table(seed)
    test = np.random.default_rng(5).random(600) < 0.3
    loop = np.array(
        [
            [judge(x[~test], v[~test, j]).score(x[test][:, None], v[test, j]) for j in range(3)]
            for x in z.T
        ]
    )
    np.testing.assert_allclose(sap_matrix(z, v, held_out=test), loop, atol=1e-12)
    assert sap(z, v, held_out=test) == pytest.approx(
        np.mean(np.sort(loop, 0)[-1] - np.sort(loop, 0)[-2])
    )
    squared = np.corrcoef(z.T, v.T)[:4, 4:] ** 2
    assert sap(z, v, continuous=True) == pytest.approx(
        np.mean(np.sort(squared, 0)[-1] - np.sort(squared, 0)[-2])
    )


def test_sap_of_dead_codes_and_values_that_only_one_side_has():
    z, v = table()
    z[:, 0] = 1.0
    assert np.isfinite(sap_matrix(z, v)).all() and sap_matrix(z, v, continuous=True)[
        0
    ].tolist() == [0, 0, 0]
    rest = np.arange(600) % 3 == 0
    always = [
        (y[rest] == np.bincount(y[~rest]).argmax()).mean() for y in v.T
    ]  # the most frequent value
    assert sap_matrix(z, v, held_out=rest)[0] == pytest.approx(always)
    v[:, 0] = 0
    v[:5, 0] = 1  # these rows are all held out: one value is left to train on
    assert sap_matrix(z, v, held_out=np.arange(600) < 300)[:, 0] == pytest.approx(295 / 300)
    assert (
        0 <= sap(z[:, :1], v) <= 1 and sap(z[:, 1:2], v[:, 1:], continuous=True) > 0
    )  # a single code


def test_sap_depends_on_the_scale():
    v = np.random.default_rng(0).integers(3, size=(3000, 1))
    assert sap(v * 1.0, v) > sap(v * 0.01, v) + 0.2


# ---------------------------------------------------------------- DCI, modularity, explicitness
def test_dci_by_hand():
    z, v = table()
    test = np.random.default_rng(1).random(600) < 0.4
    model = GradientBoostingClassifier(n_estimators=5, random_state=3)
    fits = [
        GradientBoostingClassifier(n_estimators=5, random_state=3).fit(z[~test], y)
        for y in v[~test].T
    ]
    R = np.stack([f.feature_importances_ for f in fits], 1)
    D = sum(r.sum() / R.sum() * (1 - scipy_entropy(r + 1e-11, base=3)) for r in R)
    C = sum(c.sum() / R.sum() * (1 - scipy_entropy(c + 1e-11, base=4)) for c in R.T)
    I = np.mean([f.score(z[test], y) for f, y in zip(fits, v[test].T)])
    found = dci(z, v, classifier=model, held_out=test, seed=3)
    assert found[:3] == pytest.approx((D, C, I), abs=1e-12)
    np.testing.assert_allclose(found.importance, R, atol=1e-12)


def test_concentration():
    assert concentration(np.eye(3)) == pytest.approx(1) and concentration(
        np.ones((3, 4))
    ) == pytest.approx(0, abs=1e-9)
    assert concentration(np.zeros((3, 4))) == pytest.approx(0, abs=1e-9)
    assert concentration([[1, 0], [0.5, 0.5]]) == pytest.approx(0.5)
    for bad in (np.eye(3)[:, :1], -np.eye(2), [1.0, 2.0]):
        with pytest.raises(MetricError, match="importances"):
            concentration(bad)


def test_perfect_codes_have_perfect_dci():
    found = dci(
        GRID + np.random.default_rng(0).normal(size=GRID.shape) * 0.01, GRID, classifier=FAST
    )
    assert min(found[:3]) > 0.99
    one = dci(
        GRID[:, :1] * 2 + GRID[:, 2:], GRID[:, [0, 2]], classifier=FAST
    )  # a single code knows everything
    assert (
        one.completeness == pytest.approx(1)
        and one.importance.shape == (1, 2)
        and one.disentanglement < 0.1
    )


@pytest.mark.parametrize("seed", range(4))
def test_modularity_by_hand(seed):
    z, v = table(seed)
    z[:, 1] = 0
    total = 0
    for x in z.T:
        m = [mutual_info_score(y, np.digitize(x, np.histogram(x, 20)[1][:-1])) for y in v.T]
        best = max(m)
        total += 0 if best < 1e-12 else 1 - (sum(a * a for a in m) - best**2) / (best**2 * 2)
    assert modularity(z, v) == pytest.approx(total / 4, abs=1e-9)


def test_explicitness_by_hand():
    z, v = table()
    test = np.random.default_rng(2).random(600) < 0.4
    s = (z - z[~test].mean(0)) / z[~test].std(0)
    areas = []
    for j in range(3):
        p = LogisticRegression(max_iter=2000).fit(s[~test], v[~test, j]).predict_proba(s[test])
        areas.append(
            np.mean(
                [
                    roc_auc_score(v[test, j] == k, p[:, k])
                    for k in np.unique(v[~test, j])
                    if (v[test, j] == k).any()
                ]
            )
        )
    assert explicitness(z, v, held_out=test) == pytest.approx(np.mean(areas), abs=1e-12)
    assert explicitness(z, v, held_out=test, normalized=True) == pytest.approx(
        2 * np.mean(areas) - 1, abs=1e-12
    )


# ---------------------------------------------------------------- scores by draws
def slow_votes(z, v, n, batch, rng):
    "The FactorVAE score's votes, one draw at a time."
    var, out = z.var(0, ddof=1), np.zeros((z.shape[1], v.shape[1]))
    for _ in range(n):
        j = rng.integers(v.shape[1])
        same = np.flatnonzero(v[:, j] == v[rng.integers(len(v)), j])
        out[(z[rng.choice(same, batch)].var(0, ddof=1) / var).argmin(), j] += 1
    return out


def test_factor_vae_agrees_with_a_loop():
    z, v = table(2, N=1500)
    rng = np.random.default_rng(0)
    rule, judged = slow_votes(z, v, 1500, 32, rng).argmax(1), slow_votes(z, v, 1500, 32, rng)
    expected = judged[np.arange(4), rule].sum() / judged.sum()
    assert 0.4 < expected < 0.99 and factor_vae_score(
        z, v, batch=32, draws=3000, test_draws=3000
    ) == pytest.approx(expected, abs=0.04)


def test_beta_vae_agrees_with_a_loop():
    z, v = table(2, N=1500)
    rng = np.random.default_rng(0)

    def vectors(n):
        x, y = [], rng.integers(3, size=n)
        for j in y:
            a = rng.integers(1500, size=16)
            b = [rng.choice(np.flatnonzero(v[:, j] == v[i, j])) for i in a]
            x.append(np.abs(z[a] - z[b]).mean(0))
        return np.array(x), y

    expected = LogisticRegression(max_iter=2000).fit(*vectors(1500)).score(*vectors(1500))
    assert 0.4 < expected < 0.99 and beta_vae_score(
        z, v, batch=16, draws=3000, test_draws=3000
    ) == pytest.approx(expected, abs=0.04)


def test_scores_by_draws_on_known_codes():
    few = dict(draws=600, test_draws=600)
    perfect = GRID + np.random.default_rng(0).normal(size=GRID.shape) * 0.01
    noise = np.random.default_rng(1).normal(size=(len(GRID), 5))
    assert (
        factor_vae_score(perfect, GRID, **few) == 1 and beta_vae_score(perfect, GRID, **few) > 0.99
    )
    assert factor_vae_score(noise, GRID, **few) < 0.5 and beta_vae_score(noise, GRID, **few) < 0.5
    assert factor_vae_score(perfect * [1, -100, 1], GRID, **few) == 1
    with pytest.warns(MetricWarning, match="no code has a standard deviation"):
        assert factor_vae_score(perfect * 0.01, GRID, **few) == 0
    with pytest.raises(MetricError, match="stands in one row only"):
        factor_vae_score(noise[:50], np.column_stack([GRID[:50, 0], np.arange(50)]))
    lonely = GRID[:, :2].copy()
    lonely[0, 0] = 99  # a value of one row: never drawn
    assert factor_vae_score(lonely + 0.0, lonely, **few) > 0.9


# ---------------------------------------------------------------- one call
def test_evaluate_gives_what_the_metrics_give():
    z, v = table()
    t = evaluate(z, v, (2, 3, 7), metrics="all", seed=4, classifier=FAST, draws=500)
    assert list(t.columns) == [
        "metric",
        "value",
        "low",
        "high",
        "measures",
    ] and t.metric.tolist() == list(ABOUT)
    s = t.set_index("metric").value
    assert (
        s.mig == mig(z, v)
        and s.sap == sap(z, v, seed=4)
        and (s.im, s.im_share) == im(z, v)[:2]
        and s.modularity == modularity(z, v)
    )
    assert (
        tuple(s[[k for k in s.index if k.startswith("dci")]])
        == dci(z, v, classifier=FAST, seed=4)[:3]
    )
    assert s.factor_vae == factor_vae_score(
        z, v, draws=500, test_draws=250, seed=4
    ) and s.beta_vae == beta_vae_score(z, v, draws=500, test_draws=250, seed=4)
    assert s.explicitness == explicitness(z, v, seed=4)
    assert (t.value <= t.high + 1e-12).all() and (t.value >= 0).all()
    assert evaluate(z, v).metric.tolist() == ["mig", "sap", "im", "im_share", "modularity"]
    assert evaluate(z, v, metrics="im").metric.tolist() == ["im", "im_share"]
    pd.testing.assert_frame_equal(evaluate(paired(z, v)), evaluate(z, v))


def test_evaluate_with_one_factor_leaves_out_what_compares_factors():
    z, v = table()
    with pytest.warns(
        MetricWarning,
        match="only size varies: left out, since they compare factors: "
        "modularity, dci, factor_vae, beta_vae",
    ):
        t = evaluate(z, v[:, 2:], metrics="all", names=["size"])
    assert t.metric.tolist() == ["mig", "sap", "im", "im_share", "explicitness"]
    assert quiet(evaluate, z, v[:, 2:]).metric.tolist() == ["mig", "sap", "im", "im_share"]


def test_evaluate_leaves_its_input_alone_and_takes_other_kinds_of_numbers():
    z, v = table()
    before = z.copy(), v.copy()
    expected = evaluate(z, v)
    assert (z == before[0]).all() and (v == before[1]).all()
    for other in (
        v.astype(np.int8),
        v.astype(float),
        v.astype(np.uint16),
        v.tolist(),
        np.asfortranarray(v),
    ):
        pd.testing.assert_frame_equal(evaluate(np.asfortranarray(z), other), expected)
    frozen = z.copy()
    frozen.flags.writeable = False
    pd.testing.assert_frame_equal(evaluate(frozen, v), expected)
    np.testing.assert_allclose(evaluate(z.astype(np.float32), v).value, expected.value, atol=0.02)


def test_floor_and_standard_error():
    z, v = table(N=1000)
    score = evaluate(z, v).set_index("metric").value
    under, se = (
        metrics.floor(z, v).set_index("metric"),
        standard_error(z, v, repeats=5).set_index("metric").se,
    )
    assert (under["mean"] < score).drop("modularity").all() and under.loc[
        "im", "mean"
    ] == pytest.approx(19 * (1 + 2 + 6) / 2000, rel=0.6)
    assert ((se > 0) & (se < 0.2)).all()
    pd.testing.assert_series_equal(standard_error(z, v, repeats=5).set_index("metric").se, se)
    for f in (metrics.floor, standard_error):
        with pytest.raises(MetricError, match="repeats"):
            f(z, v, repeats=1)


def test_per_factor():
    z, v = table(N=1000)
    t, m = per_factor(z, v, names=["a", "b", "c"]), mutual_information(z, v)
    assert t.factor.tolist() == ["a", "b", "c"] and t["values"].tolist() == [2, 3, 7]
    assert (
        (t.best == m.argmax(0)).all()
        and t.nats.to_numpy() == pytest.approx(m.max(0))
        and t["its nats"].to_numpy() == pytest.approx(np.sort(m, 0)[-2])
    )
    assert per_factor(z[:, :1], v).second.tolist() == [-1, -1, -1]


def test_importing_is_cheap(python):
    done = python(
        "-c",
        "import sys, genmix.metrics; "
        "heavy = {'torch', 'sklearn', 'pandas', 'scipy', 'matplotlib'}; "
        "print(*sorted(heavy & set(sys.modules)))",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# ---------------------------------------------------------------- what cannot work
Z, V = table(N=30)


@pytest.mark.parametrize(
    "codes, factors, sizes, said",
    [
        (
            np.where(np.arange(120).reshape(30, 4) == 5, np.nan, Z),
            V,
            None,
            "codes: row 1, column 1 is nan",
        ),
        (
            np.where(np.arange(120).reshape(30, 4) == 5, -np.inf, Z),
            V,
            None,
            "row 1, column 1 is -inf",
        ),
        (
            np.where(np.arange(120).reshape(30, 4) == 5, 1e200, Z),
            V,
            None,
            "finite numbers below 1e100",
        ),
        (Z[:, 0], V, None, "codes\\[:, None\\]"),
        (Z, V[:, 0], None, "factors\\[:, None\\]"),
        (Z[None], V, None, "expected two axes"),
        (Z, V[:-1], None, "30 rows of codes, but 29 of factors"),
        (Z[:0], V[:0], None, "empty"),
        (Z[:, :0], V, None, "empty"),
        (Z, V[:, :0], None, "empty"),
        (Z[:9], V[:9], None, "9 rows are too few"),
        (Z, V / 2, None, "is not a whole number everywhere"),
        (Z, V - 1, None, "runs from -1"),
        (Z, V * 1e80, None, "is not a whole number"),
        (Z, V, (2, 3, 6), "factor 2 runs from 0 to 6; expected 0 to 5"),
        (Z, V, (2, 3), "expected 3 whole numbers"),
        (Z, V, (2.0, 3.0, 7.0), "expected 3 whole numbers"),
        (Z.astype(str), V, None, "codes have type"),
        (Z + 1j, V, None, "codes have type complex"),
        (Z, V.astype(object), None, "factors have type object"),
        (Z, None, None, "factors are missing"),
        (Z, V * 0, None, "every factor is constant"),
    ],
)
def test_tables_that_cannot_work(codes, factors, sizes, said):
    with pytest.raises(MetricError, match=said):
        evaluate(codes, factors, sizes)


def test_settings_that_cannot_work():
    for bins in (1, 0, 2.5, True, "20"):
        with pytest.raises(MetricError, match="bins"):
            mig(Z, V, bins=bins)
    for held_out in (
        0,
        1,
        1.5,
        True,
        np.ones(30, bool),
        np.zeros(30, bool),
        np.arange(30),
        [True, False],
    ):
        with pytest.raises(MetricError, match="held_out"):
            sap(Z, V, held_out=held_out)
    for name in ("mgi", ["mig", "dci_disentanglement"], []):
        with pytest.raises(
            MetricError, match="unknown metric.*there are mig, sap, im, modularity, dci"
        ):
            evaluate(Z, V, metrics=name)
    with pytest.raises(MetricError, match="names has 2 entries for 3 factors"):
        evaluate(Z, V, names=["a", "b"])
    for f in (
        dci,
        modularity,
        factor_vae_score,
        beta_vae_score,
        lambda *a: evaluate(*a, metrics="modularity"),
    ):
        with pytest.raises(MetricError, match="needs at least two"):
            f(Z, V[:, :1])
    assert set(CHEAP + COSTLY) == {
        k.partition("_dis")[0].partition("_com")[0].partition("_inf")[0].partition("_share")[0]
        for k in ABOUT
    }


def test_constant_factors_are_left_out_with_a_warning():
    z, v = table()
    more = np.insert(v, 1, 5, axis=1)
    for f in (
        mig,
        sap,
        modularity,
        lambda *a: im(*a)[:2],
        lambda *a: explicitness(*a),
        lambda *a: dci(*a, classifier=FAST)[:3],
        lambda *a: factor_vae_score(*a, draws=200, test_draws=200),
        lambda *a: beta_vae_score(*a, draws=200, test_draws=200),
    ):
        expected = f(z, v)
        with pytest.warns(MetricWarning, match="constant in these rows: factor 1"):
            assert f(z, more) == pytest.approx(expected, abs=1e-12)
    with pytest.warns(MetricWarning, match="color") as said:
        evaluate(z, more, names=["shape", "color", "size", "angle"])
    assert (
        len(said) == 1
        and im(paired(z, v)).codes.tolist() == np.delete(quiet(im, z, more).codes, 1).tolist()
        and quiet(im, z, more).codes[1] == -1
    )


def quiet(f, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MetricWarning)
        return f(*args)


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_small_ragged_tables_give_finite_numbers(seed):
    "Few rows, rare values, dead and repeated codes: cheap scores are numbers between their bounds."
    rng = np.random.default_rng(seed)
    N, L = int(rng.integers(10, 40)), int(rng.integers(1, 5))
    v = np.stack([rng.integers(k, size=N) * rng.integers(0, 2, size=N) for k in (2, 5, 30)], 1)
    v[:2] = [[0, 0, 0], [1, 1, 1]]
    z = np.round(rng.normal(size=(N, L)), int(rng.integers(0, 3))) * rng.integers(0, 2, size=L)
    t = evaluate(z, v)
    assert np.isfinite(t.value).all() and (t.value >= 0).all() and (t.value <= t.high + 1e-9).all()


def test_files_that_are_no_codes(tmp_path):
    "Each is refused with one clear error that names the file."
    np.save(tmp_path / "one.npy", np.zeros((20, 2)))
    np.savez(
        tmp_path / "objects.npz", codes=np.zeros((20, 2)), factors=np.array([[None]] * 20, object)
    )
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "codes.npz", codes=np.zeros((20, 2)))
    wrong = {
        "one.npy": "a single array",
        "objects.npz": "cannot be read",
        "text.npz": "cannot be read",
        "codes.npz": "has no factors",
    }
    for name, why in {**wrong, "none.npz": "no such file"}.items():
        with pytest.raises(metrics.MetricError, match=why) as e:
            metrics.read_codes(tmp_path / name)
        assert name in str(e.value)


def test_all_may_stand_in_a_list():
    v = np.stack(np.unravel_index(np.arange(200) % 20, (4, 5)), 1)
    t = metrics.evaluate(v + 0.0, v, metrics=("mig", "all"), draws=100)
    assert {"dci_disentanglement", "beta_vae", "explicitness"} <= set(t.metric)
