"""What the benchmarks share: a clock, one thread unless stated otherwise, pairs in turns, a process
for every candidate, ratios within rounds."""

import multiprocessing
import os
import statistics
import sys
import time
from contextlib import ExitStack, contextmanager

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

MOST = 99  # pairs, however much time there is


class Missing(Exception):
    "Something that a benchmark needs is not on this machine."


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


def official(name, split, n):
    "`n` images of a real data set, in memory; `Missing` where it is not there."
    from dataclasses import replace

    import numpy as np
    from genmix.data import DataError, load

    try:
        d = load(name, split, n=n)
    except DataError as e:
        raise Missing(
            f"needs the real {name}, which is not here: set GENMIX_DATA to the folder that holds "
            f"it, or `genmix data fetch {name}`"
        ) from e
    return replace(d, x=np.ascontiguousarray(d.x[:]), y=np.asarray(d.y))


# ---- two functions in turns
def go_on(done, least, start, budget):
    """Is there another pair? Until `least` are done; after that as long as the next one should end
    within the budget of seconds."""
    spent = time.perf_counter() - start
    return done < least or (done < MOST and spent * (done + 1) / done < budget)


def ratios(slow, fast):
    r = [s / f for s, f in zip(slow, fast, strict=True)]
    return {
        "median": round(statistics.median(r), 3),
        "least": round(min(r), 3),
        "largest": round(max(r), 3),
    }


def compared(slow, fast):
    "The ratios of two lists of seconds, with their number and both medians."
    return {
        **ratios(slow, fast),
        "pairs": len(slow),
        "slow": statistics.median(slow),
        "fast": statistics.median(fast),
    }


def in_turns(slow, fast, pairs, budget=0.0, draw=tuple, items=(1, 1)):
    """Both sides in an order that alternates: at least `pairs` pairs, more while there is budget
    (seconds).

    draw() is called before every pair and not timed; what it returns is handed to both. `items`:
    how many things each side does, so that `slow` and `fast` in the result are seconds per thing.
    """
    taken, start = ([], []), time.perf_counter()
    while go_on(k := len(taken[0]), pairs, start, budget):
        args = draw()
        for side in (0, 1)[:: -1 if k % 2 else 1]:
            taken[side].append(seconds(lambda: (slow, fast)[side](*args)) / items[side])
    return compared(*taken)


# ---- a process for every candidate
def serve(pipe, threads, build, args, settings, warm):
    "A candidate's process: one call, and its figures, whenever it is asked."
    import numpy as np

    if (
        "torch" in sys.modules
    ):  # the candidate's module uses it; elsewhere torch would change how memory is given out
        sys.modules["torch"].set_num_threads(threads)
    run = build(*args, **settings)
    for _ in range(warm):
        if not np.isfinite(run()):
            raise SystemExit("a loss is not finite: nothing is worth measuring")
    pipe.send("ready")
    while (order := pipe.recv()) is not None:
        cpu, before = time.process_time(), faults()
        wall = seconds(lambda: run(*order))
        pipe.send((wall, time.process_time() - cpu, faults() - before))


@contextmanager
def at_work(candidates, args, threads, warm):
    """Processes of their own for all candidates, warm; gives ask(name, *order) -> wall seconds,
    processor seconds, page faults of run(*order).

    `candidates`: name -> (build, settings); build(*args, **settings), called in the candidate's own
    process, returns run.
    """
    context, pipes = multiprocessing.get_context("spawn"), {}

    def ask(name, *order):
        pipes[name].send(order)
        return pipes[name].recv()

    with ExitStack() as stack:
        for name, (build, settings) in candidates.items():
            pipes[name], theirs = context.Pipe()
            p = context.Process(target=serve, args=(theirs, threads, build, args, settings, warm))
            p.start()
            theirs.close()
            stack.callback(p.join)
            stack.callback(pipes[name].close)
        for name, pipe in pipes.items():
            assert pipe.recv() == "ready", name
        yield ask
        for pipe in pipes.values():
            pipe.send(None)


def measure(candidates, args, rounds, threads, warm=2, budget=0.0):
    """Wall seconds, processor seconds and page faults of every candidate in every round (at least
    `rounds`), in an order that alternates."""
    found = {name: [] for name in candidates}
    with at_work(candidates, args, threads, warm) as ask:
        k, start = 0, time.perf_counter()
        while go_on(k, rounds, start, budget):
            for name in list(candidates)[:: -1 if k % 2 else 1]:
                found[name].append(ask(name))
            k += 1
    return {
        name: dict(zip(("wall", "cpu", "faults"), map(list, zip(*rows))))
        for name, rows in found.items()
    }
