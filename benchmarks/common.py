"What the benchmarks share: a clock, one thread unless stated otherwise, a process for every candidate, ratios within rounds."

import multiprocessing
import os
import statistics
import time
from contextlib import ExitStack

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def faults():
    "Page faults of this process so far."
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def serve(pipe, threads, build, args, settings, warm):
    "A candidate's process: one pass, and its figures, whenever it is asked."
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    run = build(*args, **settings)
    for _ in range(warm):
        if not np.isfinite(run()):
            raise SystemExit("a loss is not finite: nothing is worth measuring")
    pipe.send("ready")
    while pipe.recv():
        cpu, before = time.process_time(), faults()
        wall = seconds(run)
        pipe.send((wall, time.process_time() - cpu, faults() - before))


def measure(candidates, args, rounds, threads, warm=2):
    """Wall seconds, processor seconds and page faults of every candidate in every round, in an order that alternates.

    `candidates`: name -> (build, settings); build(*args, **settings), called in the candidate's own process, returns what is measured.
    """
    context, pipes = multiprocessing.get_context("spawn"), {}
    found = {name: [] for name in candidates}
    with ExitStack() as stack:
        for name, (build, settings) in candidates.items():
            pipes[name], theirs = context.Pipe()
            p = context.Process(target=serve, args=(theirs, threads, build, args, settings, warm))
            p.start()
            theirs.close()
            stack.callback(p.join)
            stack.callback(pipes[name].close)
            assert pipes[name].recv() == "ready"
        for k in range(rounds):
            for name in list(candidates)[:: -1 if k % 2 else 1]:
                pipes[name].send(True)
                found[name].append(pipes[name].recv())
        for pipe in pipes.values():
            pipe.send(False)
    return {name: dict(zip(("wall", "cpu", "faults"), map(list, zip(*rows)))) for name, rows in found.items()}


def ratios(slow, fast):
    r = [s / f for s, f in zip(slow, fast, strict=True)]
    return {"median": round(statistics.median(r), 3), "least": round(min(r), 3), "largest": round(max(r), 3)}
