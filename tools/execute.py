#!/usr/bin/env python
"""Run notebooks and store their outputs, the same way on every machine.

    python tools/execute.py                         every notebook in nbs/
    python tools/execute.py nbs/01_moe1991.ipynb    only these
    python tools/execute.py --check                 write nothing, say which outputs would change
    python tools/execute.py --flags data            run the cells marked `#| data` as well

Every notebook runs in a process of its own, with execnb (the shell that nbdev tests with), in the
folder nbs/, on one thread. Old outputs are cleared first. Cells marked `#| eval: false`, and cells
with one of pyproject.toml's tst_flags (`#| slow`, `#| data`), do not run and keep what they had.
What would differ from run to run is left out of the stored outputs: stderr, execution counts,
memory addresses, the reprs of matplotlib objects. A notebook is replaced only when all of its cells
ran; after an error the file is as it was, and the message names the notebook and the cell.
"""

import argparse
import atexit
import base64
import contextlib
import io
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import traceback
import weakref
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"

# Text that a plotting call leaves beside its figure: an artist's repr, worth nothing to a reader.
ARTIST = re.compile(r"^[\[(]*(array\(\[*)?(<(matplotlib|mpl_toolkits|Axes|seaborn)\b|Text\()")
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{6,}")


def joined(text):
    "Notebook text is a string or a list of lines: make it a string."
    return (text if isinstance(text, str) else "".join(text)).replace("\r\n", "\n")


# ---------------------------------------------------------------- what is stored
def tidy(outputs):
    "Outputs without what changes from run to run -> (outputs, dropped stderr)."
    kept, stderr = [], ""
    for out in outputs:
        if out["output_type"] == "stream":
            if out["name"] == "stderr":
                stderr += joined(out["text"])
                continue
            out["text"] = ADDRESS.sub("", joined(out["text"])).splitlines(keepends=True)
        data = out.get("data", {})
        if set(data) == {"text/plain"} and ARTIST.match(joined(data["text/plain"])):
            continue
        if "image/png" in data:
            data["image/png"] = smaller(data["image/png"])
        for kind in data:
            if kind.startswith("text/"):
                data[kind] = ADDRESS.sub("", joined(data[kind])).splitlines(keepends=True)
        kept.append(out)
    return kept, stderr


def smaller(png):
    "A figure with a palette of 160 colors: it looks the same and takes a third of the space."
    from PIL import Image

    packed = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(joined(png)))).convert("RGB").quantize(
        160, dither=0
    ).save(packed, "PNG", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


def local_paths(outputs):
    "Paths of this machine that stand in the outputs' text."
    text = "\n".join(shown for kind, shown in comparable(outputs) if not kind.startswith("image/"))
    here = {str(folder) + os.sep for folder in (ROOT, Path.home(), tempfile.gettempdir())}
    return sorted(path for path in here if len(path) > 3 and path in text)


# ------------------------------------------------------------ the worker: one notebook, one process
def make_shell():
    "An execnb shell whose figures do not depend on who runs it."
    import matplotlib
    from execnb.shell import CaptureShell

    shell = CaptureShell(NBS)
    backend = matplotlib.get_backend()
    matplotlib.rcdefaults()
    matplotlib.use(backend)
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    # matplotlib writes its own version into every PNG unless told not to
    set_matplotlib_formats("png", bbox_inches="tight", metadata={"Software": None})
    return shell


def run_notebook(path, dest, flags):
    "Run the notebook at `path`, write it with its outputs to `dest`; exit status 0 or 1."
    from fastcore.nbio import read_nb, write_nb
    from nbdev.clean import clean_nb
    from nbdev.config import get_config

    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    os.chdir(NBS)
    nb, shell = read_nb(path), make_shell()
    skip = set(get_config(ROOT).tst_flags.split()) - set(flags)

    def fail(number, cell, error):
        head = "\n".join("    " + line for line in joined(cell["source"]).splitlines()[:12])
        print(
            f"{name}: cell {number} of {len(nb.cells)} (id {cell.get('id', '?')}) failed; the file "
            "is as it was.\n"
            f"{head}\n{error}",
            file=sys.stderr,
        )
        return 1

    for number, cell in enumerate(nb.cells, 1):
        if cell.cell_type != "code":
            continue
        directives, code = cell.directives, cell.source
        if directives.get("eval", "").lower() == "false" or skip & set(directives):
            continue
        cell.outputs, cell.execution_count = [], None
        outputs = shell.run(code) if code.strip() else []
        if shell.exc is not None and code.strip():
            trace = [o for o in outputs if o["output_type"] == "error"]
            return fail(number, cell, "".join(trace[-1]["traceback"]) if trace else repr(shell.exc))
        outputs, stderr = tidy(outputs)
        if stderr.strip():
            print(
                f"{name}: cell {number}: stderr not stored: {stderr.strip()[:400]}", file=sys.stderr
            )
        if found := local_paths(outputs):
            return fail(
                number,
                cell,
                f"Its output holds a path of this machine ({', '.join(found)}): print a name "
                "instead.",
            )
        cell.outputs = outputs

    clean_nb(nb)
    write_nb(nb, dest)
    return 0


# ---------------------------------------------------------------- the parent
def environment(scratch, keep_data):
    """The environment of a worker: this checkout first, one thread, nothing of the user's own
    settings."""
    env = {
        k: v
        for k, v in os.environ.items()
        if k not in ("IN_TEST", "MPLBACKEND", "MATPLOTLIBRC", "PYTHONSTARTUP")
    }
    if not keep_data:
        env.pop("GENMIX_DATA", None)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env |= {
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "TQDM_DISABLE": "1",
    }
    env |= {"IPYTHONDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    return env


def comparable(outputs):
    "What `--check` compares: text as it stands, images by their size in pixels."
    shown = []
    for out in outputs:
        if out["output_type"] == "stream":
            shown.append(("stream", joined(out["text"])))
        for kind, value in sorted(out.get("data", {}).items()):
            if kind == "image/png":
                width, height = struct.unpack(">II", base64.b64decode(joined(value))[16:24])
                value = f"{width} x {height}"
            elif kind.startswith("image/"):
                value = ""
            shown.append(
                (
                    kind,
                    joined(value)
                    if isinstance(value, (str, list))
                    else json.dumps(value, sort_keys=True),
                )
            )
    return shown


NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")


def same_text(a, b):
    """Equal, but for the last digits of numbers, which other processors round differently: within 2
    %, or one in the last place."""
    if NUMBER.sub("#", " ".join(a.split())) != NUMBER.sub("#", " ".join(b.split())):
        return False
    for x, y in zip(NUMBER.findall(a), NUMBER.findall(b), strict=True):
        last = 10.0 ** -len(x.partition("e")[0].partition(".")[2])
        x, y = (float(n.replace(",", "").rstrip(".")) for n in (x, y))
        if abs(x - y) > max(0.02 * max(abs(x), abs(y)), 1.001 * last):
            return False
    return True


def alike(a, b):
    "Are two shown things the same? Images may differ by a few pixels, as other fonts make them."
    if a[0] == b[0] == "image/png":
        sizes = zip(map(int, a[1].split(" x ")), map(int, b[1].split(" x ")))
        return all(abs(m - n) <= 0.05 * max(m, n) for m, n in sizes)
    return a[0] == b[0] and same_text(a[1], b[1])


def differences(old, new):
    "Lines that say which cells' outputs differ between two notebooks."
    lines = []
    for number, (a, b) in enumerate(zip(old["cells"], new["cells"]), 1):
        before, after = comparable(a.get("outputs", [])), comparable(b.get("outputs", []))
        if len(before) != len(after) or not all(map(alike, before, after)):
            gone, came = (
                [x for x in before if x not in after],
                [x for x in after if x not in before],
            )
            lines.append(f"  cell {number} (id {b.get('id', '?')}):")
            lines += [f"    - {kind}: {text.strip()[:200]}" for kind, text in gone]
            lines += [f"    + {kind}: {text.strip()[:200]}" for kind, text in came]
    return lines


def worker(path, dest, flags, timeout):
    "Run a notebook in a new process -> its exit status."
    command = [sys.executable, str(Path(__file__).resolve()), str(path), "--worker", str(dest)]
    with tempfile.TemporaryDirectory() as scratch:
        return subprocess.run(
            [*command, "--flags", " ".join(flags)],
            env=environment(scratch, "data" in flags),
            timeout=timeout,
        ).returncode


def execute(path, check=False, flags=(), timeout=3600, run=worker):
    "Run one notebook in a process of its own and replace the file; True if all went well."
    name = os.path.relpath(path)
    with tempfile.TemporaryDirectory() as scratch:
        dest = Path(scratch) / path.name
        try:
            status = run(path, dest, flags, timeout)
        except subprocess.TimeoutExpired:
            late = f"{name}: not done after {timeout} seconds; the file is as it was."
            print(late, file=sys.stderr)
            return False
        if status < 0:
            killed = f"{name}: its process was ended by signal {-status}; the file is as it was."
            print(killed, file=sys.stderr)
        if status or not dest.exists():
            return False
        old, new = path.read_text(encoding="utf-8"), dest.read_text(encoding="utf-8")
    if check:
        changed = differences(json.loads(old), json.loads(new))
        print("\n".join([f"{name}: {'outputs would change' if changed else 'same'}", *changed]))
        return not changed
    if old != new:
        part = path.with_name(path.name + ".part")
        part.write_text(new, encoding="utf-8", newline="\n")
        os.replace(part, path)
    print(f"{name}: {'same' if old == new else 'written'} ({len(new) // 1000} kB)")
    return True


def preload():
    "Import what most notebooks import, before forking: it takes longer than many a notebook."
    import execnb.shell  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import nbdev.clean  # noqa: F401
    import pandas  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch
    import torchvision  # noqa: F401

    torch.set_num_threads(1)


def serve():
    """Check the notebooks whose paths arrive on stdin, each in a process forked from this one.

    For every path there is one line of JSON: whether all went well, and what was said. Its reader
    is tests/test_notebooks.py.
    """
    preload()
    for line in sys.stdin:
        path, said = Path(line.strip()), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            good = execute(path, check=True, run=forked)
        print(json.dumps({"good": good, "said": said.getvalue()}), flush=True)


def forked(path, dest, flags, timeout):
    "Run a notebook in a child of this process -> its exit status, as `worker` gives it."
    with tempfile.TemporaryFile() as log:
        child = os.fork()
        if not child:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            sys.stdin, sys.stdout, sys.stderr = open(os.devnull), sys.__stdout__, sys.__stderr__
            status = 1
            weakref.finalize._registry.clear()  # the parent's folders are the parent's to remove
            try:
                status = run_notebook(path, dest, flags)
                atexit._run_exitfuncs()  # temporary folders and worker processes end here
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        log.seek(0)
        print(log.read().decode(errors="replace"), end="", file=sys.stderr)
    return status


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "notebooks", nargs="*", type=Path, help="notebooks to run (default: all in nbs/)"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if stored outputs would change"
    )
    parser.add_argument(
        "--flags", default="", help="flags whose cells run as well, e.g. --flags 'slow data'"
    )
    parser.add_argument(
        "--timeout", type=float, default=3600, help="seconds for one notebook (default: 3600)"
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve()
    paths = [p.resolve() for p in args.notebooks] or sorted(NBS.glob("*.ipynb"))
    for path in paths:
        if not path.is_file() or path.suffix != ".ipynb":
            parser.error(f"{path} is not a notebook")
    if args.worker:
        sys.path[0] = str(ROOT)
        return run_notebook(paths[0], args.worker, args.flags.split())
    results = [execute(p, args.check, args.flags.split(), args.timeout) for p in paths]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
