"""Chapter 01: 25 runs trained together against the same runs one after another.

    OMP_NUM_THREADS=1 python -m benchmarks.moe1991 [--pairs 7] [--epochs 60] [--runs 25] [--fresh]

The baseline is the loop one would write first: one run at a time, arrays [cases, experts, classes]
(mixtures) or [cases, units] (backprop), sums over the last axis. Both sides compute the same updates in
float64 from the same starting weights, which is checked before anything is timed. A and B alternate; the
ratio of each pair is taken, and the median of the ratios is printed.
"""

import argparse
import os
import platform
import statistics

from benchmarks.common import seconds  # first: it sets the number of threads

import numpy as np

from genmix.data import four_vowels, load
from genmix.moe1991 import Mixture, systems, train


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
    return [W - lr * np.einsum("nf,nkc->fkc", X, da) / len(X), V - lr * (X.T @ (p - h)) / len(X)], mse


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
        params = [np.ascontiguousarray(np.moveaxis(a, -1, 0) if a.ndim == 2 else a.transpose(2, 1, 0)) for a in model.init(seed, X.shape[1] - 1, D.shape[1])]
        for _ in range(epochs):
            params, _ = step(X, D, params, lr)
        out.append([np.moveaxis(a, 0, -1) if a.ndim == 2 else a.transpose(2, 1, 0) for a in params])
    return [np.stack(a) for a in zip(*out, strict=True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--fresh", action="store_true", help="let the package allocate new arrays in every epoch, to see what reusing memory saves")
    a = parser.parse_args()
    if a.fresh:
        Mixture.memory = lambda self, R, C, N: (None, None)
    task = four_vowels(load("formants"))
    X, D = np.column_stack([task.X_train, np.ones(len(task.X_train))]), np.eye(4)[task.y_train]
    seeds, lr = range(a.runs), 1.0
    print(f"{a.runs} runs x {a.epochs} epochs, {len(X)} cases, float64; OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}; "
          f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}; {a.pairs} interleaved pairs, medians")
    print(f"{'system':14} {'one by one':>12} {'together':>12} {'ratio':>7} {'(min-max)':>13}   per run and epoch")
    for name, model in systems().items():
        def together(model=model):
            return train(model, task.X_train, task.y_train, lr, seeds, epochs=a.epochs, target_mse=0.0)
        for mine, loop in zip(together().params, one_after_another(model, X, D, lr, seeds, a.epochs), strict=True):
            np.testing.assert_allclose(mine, loop, rtol=1e-8, atol=1e-10)
        slow, fast = [], []
        for _ in range(a.pairs):
            slow.append(seconds(lambda m=model: one_after_another(m, X, D, lr, seeds, a.epochs)))
            fast.append(seconds(together))
        ratios, unit = [s / f for s, f in zip(slow, fast, strict=True)], 1e6 / a.runs / a.epochs
        print(f"{name:14} {statistics.median(slow)*unit:9.1f} µs {statistics.median(fast)*unit:9.1f} µs {statistics.median(ratios):6.1f}x "
              f"({min(ratios):.1f}-{max(ratios):.1f})")


if __name__ == "__main__":
    main()
