"""All speed ratios that the chapters promise, measured in one run: which of the promises hold on
this machine?

    python -m benchmarks [--minutes 10] [--only moe1991,metrics] [--json FILE] [--quick]
    python -m benchmarks --judge FILE      after a chapter's sentence and promises.py have changed

Every benchmark runs in a process of its own, with its own number of threads, on a slice of what it
does when it is started alone; its share of the minutes says how many pairs there are, five at
least. A ratio is taken within a pair (ours and the named baseline, one right after the other, the
order alternating); the table has the median of the ratios, the least and the largest. What the
chapters promise stands in benchmarks/promises.py. A benchmark whose data is missing is skipped, an
error in one does not stop the others; after an error the exit status is 1. Whether a promise holds
is a result and not an error. Best on a machine that does nothing else: the load is printed, before
and after.

The conversion of the large sets (python -m benchmarks.large_sets) is no part of this: it has no
baseline, and takes gigabytes.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.promises import PROMISES, verdict, written

TWO = min(2, os.cpu_count() or 1)

MNIST = "MNIST (official)"

# name -> share of the time, threads, data
BENCHMARKS = {
    "readers": (40, 1, "files written by the benchmark itself (synthetic)"),
    "worlds_strokes": (20, 1, "doodles (synthetic)"),
    "worlds_sprites": (20, 1, "sprites (rebuilt)"),
    "worlds_rooms": (20, 1, "rooms (synthetic)"),
    "worlds_arms": (20, 1, "arms (synthetic)"),
    "moe1991": (35, 1, "formants (synthetic)"),
    "training": (110, TWO, MNIST),
    "smoe_vae": (245, TWO, MNIST),
    "metrics": (30, 1, "codes (synthetic)"),
    "beta_vae": (40, os.cpu_count() or 1, "sprites (rebuilt)"),
    "vlae": (30, TWO, "digits (scikit-learn's)"),
}


def processor():
    "The processor's name."
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def load_average():
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def machine():
    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{m: version(m) for m in ("numpy", "torch", "scikit-learn", "genmix")},
    }


def worker(name, pairs, budget, quick):
    "In a benchmark's own process: one line of JSON for every result."
    from benchmarks.common import Missing

    out = sys.stdout

    def say(**line):
        print(json.dumps(line), file=out, flush=True)

    with redirect_stdout(sys.stderr):
        try:
            for result, r in importlib.import_module(f"benchmarks.{name}").measured(
                pairs=pairs, budget=budget, quick=quick
            ):
                say(result=result, **r)
        except Missing as e:
            say(missing=str(e))
        except ModuleNotFoundError as e:
            if e.name.partition(".")[0] in ("genmix", "benchmarks"):
                raise
            say(missing=f"needs the package {e.name}, which is not installed")


def threads_of(name, quick):
    return 1 if quick else BENCHMARKS[name][1]


def measured(name, pairs, budget, quick):
    "A benchmark's results, why it was skipped, and what went wrong, if anything did."
    threads = threads_of(name, quick)
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--worker",
        name,
        "--pairs",
        str(pairs),
        "--budget",
        str(budget),
    ] + ["--quick"] * quick
    limit = 300 + 5 * budget
    p = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
        },
    )
    stop = threading.Timer(limit, p.kill)
    stop.start()
    try:
        out, err = p.communicate()
    finally:
        over = not stop.is_alive()
        stop.cancel()
        p.kill()
    lines = [json.loads(line) for line in out.splitlines()]
    results = {r.pop("result"): r for r in lines if "result" in r}
    missing = next((r["missing"] for r in lines if "missing" in r), None)
    if over:
        return results, missing, f"stopped after {limit:.0f} s"
    return (
        results,
        missing,
        (err.strip().splitlines() or ["no message"])[-1] if p.returncode else None,
    )


def rows_of(name, results, quick):
    "One row for every promise about a result."
    rows = []
    for result, r in results.items():
        found = [p for p in PROMISES if (p.benchmark, p.result) == (name, result)]
        chapter = next((p.chapter for p in PROMISES if p.benchmark == name), "")
        figures = {k: r[k] for k in ("median", "least", "largest", "pairs")}
        for p in found or [
            PROMISES[0]._make(
                (name, result, chapter, result, f"see benchmarks/{name}.py", "none", None, "")
            )
        ]:
            kept = "-" if quick else verdict(p.kind, p.number, r)
            rows.append(
                p._asdict()
                | figures
                | {
                    "threads": r.get("threads", threads_of(name, quick)),
                    "ratio": "cost" if name == "readers" else "gain",
                    "holds": kept,
                }
            )
    return rows


def judged_again(path):
    "The rows of a file that was measured earlier, with the promises of today."
    report, results = json.loads(path.read_text(encoding="utf-8")), {}
    for r in report["rows"]:
        results.setdefault(r["benchmark"], {})[r["result"]] = r
    report["rows"] = [
        row
        for name, found in results.items()
        for row in rows_of(name, found, report["provenance"]["quick"])
    ]
    write(path, report)
    return report["rows"]


def show(rows):
    print(
        f"\n{'chapter':14} {'ours':45} {'against':39} {'promised':>11} {'median':>8} {'least':>8} "
        f"{'largest':>8} {'pairs':>5} {'threads':>7}  holds"
    )
    for r in rows:
        print(
            f"{r['chapter']:14} {r['ours']:45} {r['baseline']:39} "
            f"{written(r['kind'], r['number']):>11} "
            + " ".join(
                f"{r[k]:8.2f}" if r[k] < 100 else f"{r[k]:8,.0f}"
                for k in ("median", "least", "largest")
            )
            + f" {r['pairs']:5} {r['threads']:7}  {r['holds']}"
        )


def write(path, report):
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=10.0,
        help="about how long all of them together may take (with --only: their share of it); below "
        "9, "
        "the training of chapter 04 is too short to be judged",
    )
    parser.add_argument(
        "--only", default="", help=f"some of them, with commas between: {', '.join(BENCHMARKS)}"
    )
    parser.add_argument(
        "--json", type=Path, help="write the table and how it was made to this file as well"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two pairs each, of next to nothing, one thread: does everything run? Judges no "
        "promise",
    )
    parser.add_argument(
        "--judge",
        type=Path,
        metavar="FILE",
        help="measure nothing: write the promises as they are now into a file that --json wrote",
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--pairs", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--budget", type=float, help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    a.names = [n.strip() for n in a.only.split(",") if n.strip()] or list(BENCHMARKS)
    if unknown := set(a.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {min(unknown)!r}; there is {', '.join(BENCHMARKS)}")
    return a


def main(argv=None):
    a = arguments(argv)
    if a.worker:
        return worker(a.worker, a.pairs, a.budget, a.quick)
    if a.judge:
        return show(judged_again(a.judge))
    here, before, start, rows, skipped, failed = machine(), load_average(), time.time(), [], {}, {}
    print(
        f"{here['processor']}, {here['cores']} cores, {here['system']} {here['architecture']}; "
        f"Python {here['python']}, numpy {here['numpy']}, "
        f"torch {here['torch']}; threads: see the table; load {before}"
    )
    if before is not None and before > here["cores"] / 4:
        print(
            f"warning: load {before}: something else is at work on this machine, and ratios will "
            "scatter",
            flush=True,
        )
    second = (
        0 if a.quick else 0.7 * 60 * a.minutes / sum(share for share, _, _ in BENCHMARKS.values())
    )  # the rest of the time goes into starting
    for k, name in enumerate(a.names, 1):
        began = time.time()
        results, missing, error = measured(
            name, 2 if a.quick else 5, second * BENCHMARKS[name][0], a.quick
        )
        rows += rows_of(name, results, a.quick)
        if missing:
            skipped[name] = missing
        if error:
            failed[name] = error
        note = f"; skipped: {missing}" if missing else ""
        print(
            f"[{k}/{len(a.names)}] {name}: {len(results)} ratios in {time.time() - began:.0f} "
            f"s{note}"
            + f"; FAILED: {error}" * bool(error),
            flush=True,
        )
    after = load_average()
    show(rows)
    done = {(r["benchmark"], r["result"]) for r in rows}
    unmeasured = sorted(
        {
            f"{p.chapter}: {p.ours}"
            for p in PROMISES
            if p.benchmark in a.names and p.kind != "none" and (p.benchmark, p.result) not in done
        }
    )
    if unmeasured:
        print("\npromised, but not measured in this run: " + "; ".join(unmeasured))
    judged = [r for r in rows if r["holds"] != "-"]
    print(
        f"\n{time.time() - start:.0f} s, load {before} before and {after} after; "
        + (
            f"{sum(r['holds'] == 'yes' for r in judged)} of {len(judged)} promises hold"
            if judged
            else "no promise was judged"
        )
    )
    if a.json:
        command = (
            "python -m benchmarks"
            + f" --minutes {a.minutes:g}" * (not a.quick)
            + f" --only {a.only}" * bool(a.only)
            + " --quick" * a.quick
        )
        made = {
            "what": "ratios of seconds within interleaved pairs: baseline over ours (a gain), for "
            "readers ours over the baseline (a cost)",
            "data": "; ".join(dict.fromkeys(BENCHMARKS[name][2] for name in a.names)),
            "date": datetime.now(UTC).date().isoformat(),
            "genmix": here.pop("genmix"),
            "machine": here,
            "load": [before, after],
            "seconds": round(time.time() - start),
            "minutes": None if a.quick else a.minutes,
            "quick": a.quick,
            "command": command + " --json FILE",
        }
        write(
            a.json,
            {
                "provenance": made,
                "rows": rows,
                "unmeasured": unmeasured,
                "skipped": skipped,
                "failed": failed,
            },
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
