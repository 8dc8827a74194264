"What every benchmark shares: one thread, and a clock."

import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start
