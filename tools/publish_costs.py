#!/usr/bin/env python
"""Measure what this book costs: `genmix reproduce` from nothing, and every notebook on one core.

    python tools/publish_costs.py                         both, on an otherwise idle machine
    python tools/publish_costs.py --reproduce             only that; the other's numbers stay
    python tools/publish_costs.py --reproduce --keep DIR  leave the report in DIR, an empty folder
    python tools/publish_costs.py --notebooks --jobs 2    only these, two at a time
    python tools/publish_costs.py --tests "2,100 passed" 28   the tests' last line, their minutes

Writes genmix/published/costs/costs.json. Both together take about a quarter of an hour.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "genmix" / "published" / "costs" / "costs.json"


def reproduced(keep):
    """Wall seconds, seconds of every run by its settings' hash, models per chapter, and what the
    command said."""
    from genmix import runs
    from genmix.configs import config_hash, load_config

    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {
        "GENMIX_DATA": str(ROOT / "nowhere")
    }
    with contextlib.nullcontext(keep) if keep else tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "genmix", "reproduce"],
            cwd=folder,
            capture_output=True,
            text=True,
            env=env,
        )
        wall = time.perf_counter() - start
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        found, chapters = {}, {}
        for path in sorted(Path(folder).glob("reproduction/runs/*/*/result.json")):
            made = runs.read_result(path.parent)["provenance"]
            found[config_hash(load_config(path.parent))] = made["seconds"]
            system = {"table1": "moe1991", "classifier": "latent-opt"}.get(
                path.parent.parent.name, path.parent.parent.name
            )
            about = chapters.setdefault(system, {"models": 0, "seconds": 0.0})
            about["models"] += 1
            about["seconds"] = round(about["seconds"] + made["seconds"], 1)
    order = ("moe1991", "latent-opt", "smoe-vae", "beta-vae", "vlae")
    return {
        "seconds": round(wall, 1),
        "runs": found,
        "chapters": {s: chapters[s] for s in order},
        "said": told(done.stdout),
    }


def told(stdout):
    """The first and the last lines of what the command printed, without the lines that count how
    many models are done."""
    lines = [
        line
        for line in stdout.splitlines()
        if not re.search(r"models, about [\d.]+ minutes left", line)
    ]
    end = next(i for i, line in enumerate(lines) if line.startswith("done in"))
    start = next(i for i, line in enumerate(lines) if line.startswith("writing:"))
    short = [line if len(line) < 150 else line[:147] + "..." for line in lines[:start]]
    return [*short, "...", *lines[end:]]


def notebooks(write, jobs=1):
    """Seconds that every notebook computes; with `write` its outputs are stored.

    Processor time, that of its helpers too, where the system tells it: other work on the machine
    then hardly matters.
    """
    env = os.environ | {"OMP_NUM_THREADS": "1"}

    def timed(path):
        words = [sys.executable, "tools/execute.py", *([] if write else ["--check"])]
        start = time.perf_counter()
        with tempfile.TemporaryFile("w+") as said:
            command = [*words, f"nbs/{path.name}"]
            process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, env=env)
            if hasattr(os, "wait4"):
                usage = os.wait4(process.pid, 0)[2]
                seconds = usage.ru_utime + usage.ru_stime
            else:
                process.wait()
                seconds = time.perf_counter() - start
            said.seek(0)
            print(f"{seconds:6.1f} s  {said.read().strip()[-300:]}", flush=True)
        return path.stem, round(seconds, 1)

    paths = sorted((ROOT / "nbs").glob("[!_.]*.ipynb"))
    with ThreadPoolExecutor(jobs) as pool:
        return {"notebooks": dict(pool.map(timed, paths))}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reproduce", action="store_true")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave the report there")
    parser.add_argument("--notebooks", action="store_true")
    parser.add_argument(
        "--write", action="store_true", help="with --notebooks: store what they print"
    )
    parser.add_argument("--jobs", type=int, default=1, help="with --notebooks: so many at a time")
    parser.add_argument("--tests", nargs=2, metavar=("SAID", "MINUTES"))
    a = parser.parse_args()
    both = not (a.reproduce or a.notebooks or a.tests)
    found = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    if a.reproduce or both:
        found |= reproduced(a.keep)
    if a.notebooks or both:
        found |= notebooks(a.write, a.jobs)
    if a.tests:
        found["tests"] = {"said": a.tests[0], "minutes": float(a.tests[1])}
    from genmix import runs

    made = runs.provenance(
        "none", found.get("seconds", 0), cores=os.cpu_count(), processor=processor()
    )
    found["provenance"] = {k: v for k, v in made.items() if k not in ("seconds", "threads")} | {
        "command": "python tools/publish_costs.py"
    }
    print(f"wrote {runs.save_json(FILE, found).relative_to(ROOT)}")


def processor():
    "The processor's name, where the system tells it."
    try:
        return next(
            line.split(":")[1].strip()
            for line in open("/proc/cpuinfo")
            if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
