"""All benchmarks in one run: it runs and prints its table, its promises stand in the chapters.

What is published says how it was made. Nothing is timed.
"""

import ast
import json
import math
import re

import pytest
from conftest import NBS, ROOT

from benchmarks import __main__ as everything
from benchmarks import common
from benchmarks.promises import PROMISES, keeps, verdict, written

PUBLISHED = ROOT / "genmix" / "published" / "benchmarks.json"

# Numbers in words. "Several" is read as three; what takes "as much" time again doubles it.
WORDS = {
    "one and a half": 1.5,
    "six": 6,
    "seven": 7,
    "a thousand": 1000,
    "twice": 2,
    "eight": 8,
    "ten": 10,
    "a quarter": 0.25,
    "a tenth": 0.1,
    "several": 3,
    "as much time": 2,
    "one": 1,
    "in place of one": 1,
}


def numbers(words):
    "The numbers in a sentence, in digits or words."
    found = [
        float(n.replace(",", ""))
        for n in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w])", words)
    ]
    return found + [n for w, n in WORDS.items() if re.search(rf"\b{w}\b", words)]


def prose(notebook):
    "A notebook's text, with single spaces."
    cells = json.loads((ROOT / "nbs" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    return " ".join(
        " ".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown").split()
    )


# ---------------------------------------------------------------- promises
@pytest.mark.parametrize("p", PROMISES, ids=lambda p: f"{p.chapter}-{p.result}")
def test_a_promise_is_what_its_chapter_says(p):
    assert f"{p.chapter}.ipynb" in {n.name for n in NBS}
    assert p.words in prose(p.chapter), (
        f"{p.chapter} no longer says {p.words!r}: change benchmarks/promises.py with it"
    )
    if p.kind in ("none", "faster"):
        assert p.number is None
        return
    said = numbers(p.words)
    possible = said + [a / b for a in said for b in said]
    assert any(math.isclose(p.number, x, rel_tol=1e-9) for x in possible), (
        f"{p.number} does not follow from {p.words!r}"
    )


def test_every_result_is_promised_or_named_once_a_benchmark():
    assert {p.benchmark for p in PROMISES} == set(everything.BENCHMARKS)
    pairs = [(p.benchmark, p.result, p.number) for p in PROMISES]
    assert len(pairs) == len(set(pairs))
    widths = {"chapter": 14, "ours": 45, "baseline": 39}
    assert not [p for p in PROMISES for k, w in widths.items() if len(getattr(p, k)) > w], (
        "longer than the table's columns"
    )


def test_the_sentences_that_need_a_verdict():
    r = {"median": 1.9, "least": 1.2, "largest": 2.4}
    assert (
        verdict("at least", 1.5, r) == "yes"
        and verdict("at least", 2, r) == "no, but in some pairs"
        and verdict("at least", 3, r) == "no"
    )
    assert (
        verdict("about", 2.3, r) == "yes" and verdict("about", 2.5, r) == "no, but in some pairs"
    )  # four fifths of 2.5 are 2.0
    assert verdict("faster", None, r) == "yes" and verdict("none", None, r) == "-"
    assert (
        verdict("costs about", 1.6, r) == "yes"
        and verdict("costs about", 1.2, r) == "no, but in some pairs"
        and verdict("costs about", 0.9, r) == "no"
    )
    assert keeps("none", None, 1.0) is None
    said = (
        written("about", 1000),
        written("faster", None),
        written("costs about", 2.6),
        written("at least", 784 / 190),
    )
    assert said == ("~ 1,000", "> 1", "cost ~ 2.6", ">= 4.13")


# ---------------------------------------------------------------- pairs in turns
def test_pairs_are_taken_in_turns():
    order, draws = [], iter(range(9))
    r = common.in_turns(
        lambda k: order.append(("slow", k)),
        lambda k: order.append(("fast", k)),
        4,
        draw=lambda: (next(draws),),
    )
    assert order == [
        (side, k)
        for k in range(4)
        for side in (("slow", "fast") if k % 2 == 0 else ("fast", "slow"))
    ]
    assert r["pairs"] == 4 and r["least"] <= r["median"] <= r["largest"]


def test_ratios_are_taken_within_pairs():
    r = common.compared([4.0, 9.0, 8.0], [2.0, 3.0, 1.0])
    assert (r["median"], r["least"], r["largest"], r["pairs"], r["slow"], r["fast"]) == (
        3,
        2,
        8,
        3,
        8,
        2,
    )


def test_a_budget_adds_pairs_but_never_takes_them(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(common.time, "perf_counter", lambda: next(now))
    assert common.go_on(3, 5, 0, 0.0) and not common.go_on(5, 5, 0, 0.0)
    assert common.go_on(5, 5, 0, 1e6) and not common.go_on(common.MOST, 5, 0, 1e6)


def build(scale, offset=0):
    return lambda order=0: float(scale * order + offset)


def test_candidates_have_processes_of_their_own():
    found = common.measure({"a": (build, {}), "b": (build, {"offset": 1})}, (2,), 3, 1, warm=1)
    assert {k: len(v["wall"]) for k, v in found.items()} == {"a": 3, "b": 3}
    with common.at_work({"a": (build, {})}, (2,), 1, 0) as ask:
        assert len(ask("a", 5)) == 3


# ---------------------------------------------------------------- all in one run
def test_one_command_prints_one_table(tmp_path, python):
    out = tmp_path / "all.json"
    done = python("-m", "benchmarks", "--quick", "--only", "worlds_strokes", "--json", out)
    assert done.returncode == 0, done.stderr
    assert (
        "[1/1] worlds_strokes: 3 ratios" in done.stdout
        and "promised" in done.stdout
        and done.stdout.count("00f_strokes") == 3
    )
    report = json.loads(out.read_text(encoding="utf-8"))
    assert (
        well_made(report) == 3
        and report["provenance"]["quick"]
        and report["provenance"]["command"].endswith("--only worlds_strokes --quick --json FILE")
    )
    assert all(r["pairs"] == 2 and r["holds"] == "-" for r in report["rows"])


@pytest.mark.slow
def test_everything_runs_and_has_its_line_among_the_promises(tmp_path, python):
    out = tmp_path / "all.json"
    done = python("-m", "benchmarks", "--quick", "--json", out)
    report = json.loads(out.read_text(encoding="utf-8"))
    assert done.returncode == 0 and not report["failed"], done.stdout
    assert {r["result"] for r in report["rows"] if not r["words"]} <= {
        "K = 5, training, from 1 epochs"
    }  # a full run has all sixteen
    assert {r["benchmark"] for r in report["rows"]} | set(report["skipped"]) == set(
        everything.BENCHMARKS
    )


@pytest.mark.slow
def test_the_formats_that_a_full_run_reads_have_their_lines():
    from benchmarks import readers

    assert {name for name, _ in readers.measured(2, drawings=3000)} == {
        p.result for p in PROMISES if p.benchmark == "readers"
    }


def test_an_unknown_benchmark_is_named(python):
    done = python("-m", "benchmarks", "--only", "moe1991,nothing")
    assert done.returncode == 2 and "'nothing'" in done.stderr and "worlds_rooms" in done.stderr


def test_missing_data_is_skipped_and_said(monkeypatch):
    for name in ("GENMIX_DATA", "GENMIX_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(common.Missing, match="real mnist.*GENMIX_DATA.*genmix data fetch mnist"):
        common.official("mnist", "train", 10)


def test_an_error_stops_no_other_benchmark(monkeypatch, capsys, tmp_path):
    row = {"median": 2.0, "least": 1.0, "largest": 3.0, "pairs": 5, "slow": 2.0, "fast": 1.0}
    given = {
        "moe1991": ({"4 experts": row}, None, "ZeroDivisionError"),
        "training": ({}, "needs the real mnist", None),
        "vlae": ({"drawing, waves against a pass per pixel": row}, None, None),
    }
    monkeypatch.setattr(everything, "measured", lambda name, *rest: given[name])
    assert (
        everything.main(["--only", "moe1991,training,vlae", "--json", str(tmp_path / "x.json")])
        == 1
    )
    said, report = (
        capsys.readouterr().out,
        json.loads((tmp_path / "x.json").read_text(encoding="utf-8")),
    )
    assert (
        "FAILED: ZeroDivisionError" in said
        and "skipped: needs the real mnist" in said
        and "1 of 2 promises hold" in said
    )
    assert (
        [r["holds"] for r in report["rows"]] == ["yes", "no"]
        and set(report["failed"]) == {"moe1991"}
        and set(report["skipped"]) == {"training"}
    )


def test_every_benchmark_has_the_function_that_the_run_calls():
    for name in everything.BENCHMARKS:
        tree = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8"))
        functions = {
            f.name: [a.arg for a in f.args.args]
            for f in tree.body
            if isinstance(f, ast.FunctionDef)
        }
        assert functions["measured"][:3] == ["pairs", "budget", "quick"] and "main" in functions, (
            name
        )


# ---------------------------------------------------------------- what is published
def well_made(report):
    "How many rows there are, all of them whole."
    made = report["provenance"]
    assert {
        "what",
        "data",
        "date",
        "genmix",
        "machine",
        "load",
        "seconds",
        "minutes",
        "quick",
        "command",
    } <= set(made)
    assert {"processor", "cores", "python", "numpy", "torch"} <= set(
        made["machine"]
    ) and re.fullmatch(r"\d{4}-\d\d-\d\d", made["date"])
    for r in report["rows"]:
        assert (
            0 < r["least"] <= r["median"] <= r["largest"]
            and r["pairs"] > 1
            and r["threads"] > 0
            and r["ratio"] in ("gain", "cost")
        )
        assert r["holds"] == ("-" if made["quick"] else verdict(r["kind"], r["number"], r))
    return len(report["rows"])


def test_published_ratios_say_how_they_were_made():
    report = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    assert well_made(report) > 20 and not report["failed"]
    said = {tuple(p) for p in PROMISES}
    old = [
        r["ours"]
        for r in report["rows"]
        if r["words"] and tuple(r[k] for k in PROMISES[0]._fields) not in said
    ]
    assert not old, (
        f"not the promises that the chapters make now ({', '.join(old)}): "
        "python -m benchmarks --judge genmix/published/benchmarks.json"
    )


def test_a_file_can_be_judged_again_without_measuring(tmp_path):
    report = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    changed = [r | {"kind": "at least", "number": 1e6, "holds": "no"} for r in report["rows"]]
    path = tmp_path / "b.json"
    path.write_text(json.dumps(report | {"rows": changed}), encoding="utf-8")
    everything.main(["--judge", str(path)])
    assert json.loads(path.read_text(encoding="utf-8")) == report
