"""Chapter 05a: support vector machines on a line and counted information against loops over codes
and factors with scikit-learn.

    OMP_NUM_THREADS=1 python -m benchmarks.metrics
        [--pairs 7] [--rows 10000] [--codes 10] [--scale 1] [--dual]

The codes are those of a mediocre model: half of them know a factor, the others are noise. Factors
have MPI3D's sizes. Both sides compute the same numbers, which is checked before anything is timed.
A and B alternate; the ratio of each pair is taken, and the median of the ratios is printed. The
baseline of SAP is the loop that the field uses, LinearSVC with scikit-learn's own settings; --dual
takes the solver that was its default before version 1.5, whose time depends on the scale of the
codes (--scale 20: minutes), and which may stop before it has converged. DCI's two predictors (500
rows, five factors) give different numbers; only their times are compared.
"""

import argparse
import os
import platform
import statistics
import warnings

from benchmarks.common import in_turns, seconds  # first: it sets the number of threads

import numpy as np
import sklearn
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import mutual_info_score
from sklearn.svm import LinearSVC

from genmix.metrics import dci, im, mig, modularity, mutual_information, sap, sap_matrix

SIZES = (6, 6, 2, 3, 3, 40, 40)


def tables(N, L, seed=0):
    "Codes [N, L] and factors [N, F]."
    rng = np.random.default_rng(seed)
    v = np.stack([rng.integers(k, size=N) for k in SIZES], 1)
    z = rng.normal(size=(N, L))
    for i in range(L // 2):
        z[:, i] += 3 * v[:, i % len(SIZES)] / SIZES[i % len(SIZES)]
    return z, v


def information_loop(z, v):
    d = np.stack([np.digitize(x, np.histogram(x, 20)[1][:-1]) for x in z.T], 1)
    return np.array(
        [
            [mutual_info_score(v[:, j], d[:, i]) for j in range(v.shape[1])]
            for i in range(z.shape[1])
        ]
    )


def sap_loop(z, v, test, **settings):
    out = np.zeros((z.shape[1], v.shape[1]))
    for i, j in np.ndindex(out.shape):
        model = LinearSVC(C=0.01, class_weight="balanced", **settings).fit(
            z[~test][:, [i]], v[~test, j]
        )
        out[i, j] = model.score(z[test][:, [i]], v[test, j])
    return out


def measured(pairs=7, budget=0.0, quick=False, rows=10_000, codes=10, scale=1.0, dual=False):
    "What is compared -> its ratios, one after the other."
    warnings.filterwarnings("ignore", module="sklearn")  # where the general solver stops early
    z, v = tables(1000 if quick else rows, codes)
    z *= scale
    test = np.random.default_rng(1).permutation(len(z)) < len(z) // 3
    sides = {
        "mutual information": (lambda: information_loop(z, v), lambda: mutual_information(z, v)),
        "SAP's accuracies": (
            lambda: sap_loop(z, v, test, **({"dual": True} if dual else {})),
            lambda: sap_matrix(z, v, held_out=test),
        ),
    }
    for name, (loop, ours) in sides.items():
        differ = np.abs(loop() - ours()).max()
        assert differ < (1e-9 if name.startswith("mutual") else 0.1), (
            f"{name}: both sides should agree, and differ by {differ}"
        )
        yield name, {**in_turns(loop, ours, pairs, budget / 3), "differ": float(differ)}
    few, some = (200, 2) if quick else (500, 5)
    z, v = z[:few], v[:few, :some]
    yield (
        "DCI by boosting or by a forest",
        {
            **in_turns(
                lambda: dci(z, v),
                lambda: dci(z, v, classifier=RandomForestClassifier(50)),
                pairs,
                budget / 3,
            ),
            "differ": float("nan"),
        },
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--codes", type=int, default=10)
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the codes by this")
    parser.add_argument("--dual", action="store_true", help="LinearSVC's dual solver")
    a = parser.parse_args()
    print(
        f"{a.rows:,} rows x {a.codes} codes x {len(SIZES)} factors of sizes {SIZES}; "
        f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}; {platform.machine()}, "
        f"{os.cpu_count()} cores, numpy {np.__version__}, scikit-learn {sklearn.__version__}; "
        f"{a.pairs} interleaved pairs, medians"
    )
    print(
        f"{'what':30} {'loop':>10} {'here':>10} {'ratio':>8} {'(min-max)':>15}   largest difference"
    )
    for name, r in measured(a.pairs, rows=a.rows, codes=a.codes, scale=a.scale, dual=a.dual):
        print(
            f"{name:30} {r['slow']:8.3f} s {r['fast']:8.3f} s {r['median']:7.1f}x "
            f"({r['least']:.1f}-{r['largest']:.1f})   {r['differ']:.1e}",
            flush=True,
        )
    z, v = tables(a.rows, a.codes)
    z *= a.scale
    together = [seconds(lambda: (mig(z, v), sap(z, v), im(z, v))) for _ in range(max(a.pairs, 5))]
    alone = [seconds(lambda: modularity(z, v)) for _ in range(5)]
    print(
        f"MIG + SAP + I_m together: {statistics.median(together):.3f} s "
        f"({min(together):.3f}-{max(together):.3f}); with modularity "
        f"{statistics.median(together) + statistics.median(alone):.3f} s"
    )


if __name__ == "__main__":
    main()
