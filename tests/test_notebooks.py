"""The notebooks run, agree with the package and with their own stored outputs.

And they keep the house's habits.
"""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
from conftest import NBS, ROOT, copy_of_the_tree, tool

HEAVY = {"torch", "torchvision", "matplotlib", "sklearn", "pandas"}
LOCAL_PATH = re.compile(
    r"(?<![\w.~:/-])/(?:home|Users|root|tmp|work|private/var|var/folders)/\w|[A-Z]:\\+Users\\",
    re.ASCII,
)

BY_HAND = {"__init__", "__main__", "files", "vowels"}  # of genmix itself: its door, and old names
MODULES = [
    p
    for p in sorted((ROOT / "genmix").rglob("*.py"))
    if p.stem not in ("__init__", "_modidx")
    and not (p.parent.name == "genmix" and p.stem in BY_HAND)
]
each_notebook = pytest.mark.parametrize("path", NBS, ids=lambda p: p.stem)
each_module = pytest.mark.parametrize(
    "path", MODULES, ids=lambda p: ".".join(p.relative_to(ROOT / "genmix").with_suffix("").parts)
)


def joined(text):
    return text if isinstance(text, str) else "".join(text)


def cells(path, kind=None):
    "The notebook's cells as (number, source, outputs), numbered from 1."
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        (n, joined(c["source"]), c.get("outputs", []))
        for n, c in enumerate(found, 1)
        if kind in (None, c["cell_type"])
    ]


def directives(source):
    "The `#|` directives of a cell: {'eval:': 'false', 'exports': ''}."
    return {k: v.strip() for k, v in re.findall(r"^\s*#\|\s*([\w:-]+)(.*)$", source, re.MULTILINE)}


def runs(source):
    "Is this a cell that tools/execute.py runs?"
    found = directives(source)
    return found.get("eval:", "").lower() != "false" and not {"slow", "data"} & set(found)


def files(root):
    "The files below `root`: name -> bytes, with Unix line ends."
    found = [
        p
        for p in root.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and not p.name.startswith(".")
    ]
    return {p.relative_to(root).as_posix(): p.read_bytes().replace(b"\r\n", b"\n") for p in found}


# ---------------------------------------------------------------- they run
def test_there_are_notebooks():
    assert {"index", "notation", "00_data", "00b_configs", "01_moe1991", "09_cli"} <= {
        p.stem for p in NBS
    }


@pytest.fixture(scope="session")
def executor(tmp_path_factory):
    "Runs a notebook of a copy of the tree: executor(name) -> (did all go well, what was said)."
    tree = copy_of_the_tree(tmp_path_factory.mktemp("executed"))
    scratch = tmp_path_factory.mktemp("ipython")
    if not hasattr(os, "fork"):
        run = [sys.executable, str(tree / "tools" / "execute.py"), "--check"]
        settings = dict(cwd=tree, capture_output=True, text=True, encoding="utf-8")

        def once(name):
            done = subprocess.run([*run, str(tree / "nbs" / name)], **settings)
            return done.returncode == 0, done.stdout + done.stderr

        yield tree, once
        return
    env = tool("execute").environment(scratch, False) | {"PYTHONPATH": str(tree)}
    server = subprocess.Popen(
        [sys.executable, str(tree / "tools" / "execute.py"), "--serve"],
        cwd=tree,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )

    def ask(name):
        server.stdin.write(f"{tree / 'nbs' / name}\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, f"the process that runs notebooks ended: {server.wait()}"
        answer = json.loads(answer)
        return answer["good"], answer["said"]

    yield tree, ask
    server.stdin.close()
    server.wait(60)


@pytest.mark.slow
@each_notebook
def test_runs_with_the_stored_outputs_and_leaves_no_traces(path, executor):
    "Every cell runs, its assertions hold, what it shows is what is stored; nbs/ is as it was."
    tree, run = executor
    before = files(tree / "nbs")
    good, said = run(path.name)
    assert good, said[-6000:]
    assert not re.search(r"(Deprecation|Future|Pandas\d+)Warning", said), said[-3000:]
    after = files(tree / "nbs")
    names = before.keys() | after.keys()
    changed = sorted(name for name in names if before.get(name) != after.get(name))
    assert not changed, f"running it left traces in nbs/: {', '.join(changed)}"


def test_what_counts_as_the_same_output():
    same = tool("execute").same_text
    for a, b in (("epochs 1,000", "epochs 1,001"), ("a  0.50", "a 0.51"), ("1.2e-05", "1.21e-05")):
        assert same(a, b)
    for a, b in (
        ("epochs 1,000", "epochs 1,100"),
        ("a 0.50", "b 0.50"),
        ("0.5", "0.5 0.5"),
        ("True", "False"),
    ):
        assert not same(a, b)


def test_the_executor_leaves_a_failing_notebook_alone(tmp_path, python):
    book = tmp_path / "fails.ipynb"
    source = {
        "cell_type": "code",
        "id": "abc",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    }
    book.write_text(
        json.dumps(
            {
                "cells": [{**source, "source": "1/0"}],
                "metadata": {},
                "nbformat": 4,
                "nbformat_minor": 5,
            }
        )
    )
    before = book.read_bytes()
    done = python("tools/execute.py", book)
    assert done.returncode == 1
    assert "fails.ipynb: cell 1 of 1 (id abc)" in done.stderr and "ZeroDivisionError" in done.stderr
    assert book.read_bytes() == before and list(tmp_path.iterdir()) == [book]


# ---------------------------------------------------------------- they agree with the package
def test_exporting_and_cleaning_changes_nothing(tree):
    for path in (tree / "genmix").rglob("*.py"):
        if "AUTOGENERATED" in path.read_text(encoding="utf-8")[:600] or path.stem == "_modidx":
            path.unlink()
    code = (
        "from nbdev.doclinks import nbdev_export; from nbdev.clean import nbdev_clean; "
        "nbdev_export(); nbdev_clean()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]

    for folder in ("genmix", "nbs"):
        ours, fresh = files(ROOT / folder), files(tree / folder)
        wrong = sorted(
            name for name in ours.keys() | fresh.keys() if ours.get(name) != fresh.get(name)
        )
        assert not wrong, f"run nbdev-export and nbdev-clean: {folder}/{', '.join(wrong)}"


@each_module
def test_modules_say_which_notebook_they_come_from(path):
    assert "# AUTOGENERATED! DO NOT EDIT!" in path.read_text(encoding="utf-8")[:600], (
        f"{path.name} was not exported from a notebook"
    )


# ---------------------------------------------------------------- they were executed
@each_notebook
def test_outputs_are_stored(path):
    problems = []
    for number, source, outputs in cells(path, "code"):
        if any(o["output_type"] == "error" for o in outputs):
            problems.append(f"cell {number} stores an error")
        if any(o.get("name") == "stderr" for o in outputs):
            problems.append(f"cell {number} stores stderr")
        printed = any(o.get("name") == "stdout" for o in outputs)
        if (
            runs(source)
            and source.rstrip().endswith(";")
            and re.search(r"^print\(", source, re.MULTILINE)
            and not printed
        ):
            problems.append(
                f"cell {number} prints, and its last semicolon drops what was printed: split it"
            )
        if not outputs and runs(source) and shows_something(source):
            problems.append(f"cell {number} should show something, but stores no output")
    assert not problems, f"python tools/execute.py nbs/{path.name}: " + "; ".join(problems)


def shows_something(source):
    "Does the cell end with a value, or print at its top level? A call may return None: no."
    code = re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE)
    body = ast.parse(code).body
    if not body or code.rstrip().endswith(";"):
        return False
    prints = any(
        isinstance(s, ast.Expr)
        and isinstance(s.value, ast.Call)
        and getattr(s.value.func, "id", "") == "print"
        for s in body
    )
    last = body[-1]
    value = isinstance(last, ast.Expr) and not isinstance(
        last.value, (ast.Call, ast.Await, ast.Name, ast.Attribute, ast.Yield)
    )
    docstring = (
        isinstance(last, ast.Expr)
        and isinstance(last.value, ast.Constant)
        and last.value.value in (None, ...)
    )
    return prints or (value and not docstring)


# ---------------------------------------------------------------- they keep the habits
@each_notebook
def test_opens_with_title_and_summary(path):
    first, second, *_ = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [line for line in joined(first["source"]).splitlines() if line.strip()]
    assert first["cell_type"] == "markdown" and lines[0].startswith("# "), (
        "the first cell is '# Title'"
    )
    assert len(lines) == 2 and lines[1].startswith("> "), (
        "and a one-line '> summary'; nbdev drops all else in this cell from the site"
    )
    assert second["cell_type"] == "markdown" and len(joined(second["source"])) > 150, (
        "then a paragraph: the question, the use, the cost"
    )


@each_notebook
def test_is_small(path):
    assert path.stat().st_size < 500_000, (
        f"{path.name} has {path.stat().st_size:,} bytes: smaller figures or fewer of them"
    )


@pytest.mark.parametrize("path", [p for p in NBS if p.stem[0].isdigit()], ids=lambda p: p.stem)
def test_checks_its_claims(path):
    tests = [
        n
        for n, source, _ in cells(path, "code")
        if re.search(r"^\s*(assert\b|test_\w+\()", source, re.MULTILINE)
    ]
    assert tests, "a numbered notebook has at least one test"


@each_notebook
def test_exported_cells_fit_on_a_screen(path):
    exported = [
        (n, s)
        for n, s, _ in cells(path, "code")
        if {"export", "exports", "exporti"} & set(directives(s))
    ]
    long = [
        f"cell {n}: {len(s.splitlines())} lines" for n, s in exported if len(s.splitlines()) > 45
    ]
    assert not long, "; ".join(long)


@each_notebook
def test_imports_have_cells_of_their_own(path):
    """nbdev's site build runs every cell that imports, alone and in order.

    With other code in it, that code runs too, and may fail.
    """
    book = cells(path, "code")
    if not any("default_exp" in directives(s) for _, s, _ in book):
        return
    mixed = []
    for number, source, _ in book:
        found = directives(source)
        if (
            {"export", "exports", "exporti"} & set(found)
            or found.get("eval:") == "false"
            or re.search(r"^\s*[%!]", source, re.MULTILINE)
        ):
            continue
        body = list(ast.walk(ast.parse(source)))
        if any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body) and any(
            isinstance(n, (ast.Expr, ast.Assign)) for n in body
        ):
            mixed.append(str(number))
    assert not mixed, f"imports and other code in cells {', '.join(mixed)}"


@each_notebook
def test_names_no_path_of_a_machine(path):
    found = []
    for number, source, outputs in cells(path):
        shown = [joined(o.get("text", "")) for o in outputs]
        shown += [
            joined(v)
            for o in outputs
            for k, v in o.get("data", {}).items()
            if k.startswith("text/")
        ]
        found += [
            f"cell {number}: {m[0]}..."
            for text in [source, *shown]
            if (m := LOCAL_PATH.search(text))
        ]
    assert not found, "; ".join(found)


@pytest.mark.parametrize("name", ["genmix", "genmix.configs", "genmix.data", "genmix.cli"])
def test_light_modules_import_nothing_heavy(name, python):
    done = python("-c", f"import sys, {name}; print(*sorted({HEAVY!r} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"import {name} imports {done.stdout.strip()}"


def test_ruff_finds_nothing(python):
    "Nor a line beyond 100 columns, nor two statements on one (ruff.toml), in all that is ours."
    ours = ("nbs", "genmix", "tests", "tools", "benchmarks", "setup.py")
    done = python("-m", "ruff", "check", "--no-cache", "--output-format", "concise", *ours)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


def test_modules_fit_the_page():
    "All lines of the package but what nbdev writes: first lines, lists of names, the index."
    wide = []
    for path in (p for p in (ROOT / "genmix").rglob("*.py") if p.stem != "_modidx"):
        text = re.sub(r"(?ms)^__all__ = \[.*?\]$", "", path.read_text(encoding="utf-8"))
        name = path.relative_to(ROOT).as_posix()
        wide += [f"{name}: {line}" for line in text.splitlines()[1:] if len(line) > 100]
    assert not wide, "\n".join(wide)


@pytest.mark.parametrize("code", ["x = 1; y = 2\n", "if 1: print()\n", f"x = '{'a' * 96}'\n"])
def test_ruff_finds_what_does_not_fit_the_page(code, tmp_path, python):
    (tmp_path / "wrong.py").write_text(code)
    done = python("-m", "ruff", "check", "--no-cache", "--config", "ruff.toml", tmp_path)
    assert done.returncode == 1 and re.search("E501|E701|E702", done.stdout), done.stdout
