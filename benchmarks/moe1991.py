"""Chapter 01: 25 runs trained together against the same runs one after another.

    OMP_NUM_THREADS=1 python -m benchmarks.moe1991 [--pairs 7] [--epochs 60] [--runs 25]

The baseline is the loop one would write first: one run at a time, arrays [cases, experts, classes]
(mixtures) or [cases, units] (backprop), sums over the last axis. Both sides compute the same
updates in float64 from the same starting weights, which is checked before anything is timed. A and
B alternate; the ratio of each pair is taken, and the median of the ratios is printed. The last two
comparisons let the package allocate new arrays in every epoch, to see what reusing memory saves;
each side has a process of its own, because how an allocator treats freed memory depends on what the
process did before, for example on whether it has loaded PyTorch.
"""

import argparse
import importlib
import os
import platform

from benchmarks.common import compared, in_turns, measure  # first: it sets the number of threads

import numpy as np

from genmix.parts import moe_tools
from genmix.data import four_vowels, load
from genmix.moe1991 import Mixture, train
from genmix.studies.moe1991 import systems


def softmax(a):
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def mixture_step(X, D, params, lr):
    "One update of one mixture with softmax experts: W [F+1, K, C], V [F+1, K]."
    W, V = params
    o = softmax(np.einsum("nf,fkc->nkc", X, W))  # [N, K, C]
    p = softmax(X @ V)  # [N, K]
    y = (p[:, :, None] * o).sum(1)
    mse = 0.5 * ((D - y) ** 2).sum(1).mean()
    e = o - D[:, None]
    joint = p * np.exp(-0.5 * (e**2).sum(-1))
    h = joint / joint.sum(1, keepdims=True)
    g = h[:, :, None] * e
    da = o * (g - (g * o).sum(-1, keepdims=True))
    return [
        W - lr * np.einsum("nf,nkc->fkc", X, da) / len(X),
        V - lr * (X.T @ (p - h)) / len(X),
    ], mse


def backprop_step(X, D, params, lr):
    "One update of one network: W1 [F+1, H], W2 [H+1, C]."
    W1, W2 = params
    z = 1 / (1 + np.exp(-(X @ W1)))
    z1 = np.column_stack([z, np.ones(len(z))])
    y = softmax(z1 @ W2)
    e = y - D
    mse = 0.5 * (e**2).sum(1).mean()
    da = y * (e - (e * y).sum(1, keepdims=True))
    dz = da @ W2[:-1].T * z * (1 - z)
    return [W1 - lr * X.T @ dz / len(X), W2 - lr * z1.T @ da / len(X)], mse


def one_after_another(model, X, D, lr, seeds, epochs):
    "Final parameters of all runs, in the package's layout."
    step, out = (mixture_step if isinstance(model, Mixture) else backprop_step), []
    for seed in seeds:
        params = [
            np.ascontiguousarray(np.moveaxis(a, -1, 0) if a.ndim == 2 else a.transpose(2, 1, 0))
            for a in model.init(seed, X.shape[1] - 1, D.shape[1])
        ]
        for _ in range(epochs):
            params, _ = step(X, D, params, lr)
        out.append([np.moveaxis(a, 0, -1) if a.ndim == 2 else a.transpose(2, 1, 0) for a in params])
    return [np.stack(a) for a in zip(*out, strict=True)]


def alone(epochs, runs, fresh=False, loads=None):
    """Four experts in a process of their own, where nothing has shaped the memory but a module that
    it loads."""
    if loads:
        importlib.import_module(loads)
    if fresh:
        moe_tools.memory = lambda *sizes: (None, None)
    task, model = four_vowels(load("formants")), systems()["4 experts"]
    return lambda: np.sum(
        train(
            model, task.X_train, task.y_train, 1.0, range(runs), epochs=epochs, target_mse=0.0
        ).params[0]
    )


def measured(pairs=7, budget=0.0, quick=False, epochs=60, runs=25):
    "What is compared -> its ratios, one after the other."
    epochs, runs = (20, 3) if quick else (epochs, runs)
    task = four_vowels(load("formants"))
    X, D = np.column_stack([task.X_train, np.ones(len(task.X_train))]), np.eye(4)[task.y_train]
    seeds, lr, share, items = range(runs), 1.0, budget / 6, (runs * epochs,) * 2
    for name, model in systems().items():

        def together(model=model):
            return train(
                model, task.X_train, task.y_train, lr, seeds, epochs=epochs, target_mse=0.0
            )

        def loop(model=model):
            return one_after_another(model, X, D, lr, seeds, epochs)

        for mine, theirs in zip(together().params, loop(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-8, atol=1e-10)
        yield name, in_turns(loop, together, pairs, share, items=items)
    for name, loads in (
        ("4 experts, fresh arrays", None),
        ("4 experts, fresh arrays, PyTorch loaded", "torch"),
    ):
        m = measure(
            {k: (alone, {"fresh": k == "fresh", "loads": loads}) for k in ("fresh", "reused")},
            (epochs, runs),
            pairs,
            1,
            budget=share,
        )
        yield name, compared(*([t / items[0] for t in m[k]["wall"]] for k in ("fresh", "reused")))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--runs", type=int, default=25)
    a = parser.parse_args()
    print(
        f"{a.runs} runs x {a.epochs} epochs, float64; "
        f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}; "
        f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}; {a.pairs} "
        "interleaved pairs, medians"
    )
    print(
        f"{'system':40} {'baseline':>12} {'together':>12} {'ratio':>7} {'(min-max)':>13}   per run "
        "and epoch"
    )
    for name, r in measured(a.pairs, epochs=a.epochs, runs=a.runs):
        print(
            f"{name:40} {1e6 * r['slow']:9.1f} µs {1e6 * r['fast']:9.1f} µs {r['median']:6.1f}x "
            f"({r['least']:.1f}-{r['largest']:.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
