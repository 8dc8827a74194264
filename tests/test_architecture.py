"""Which room may import which: arrows go down, or sideways without a circle.

A story never imports its study.
"""

import ast
from graphlib import TopologicalSorter

import pytest
from conftest import ROOT

from genmix import FLOORS
from genmix.configs import STUDIES

CHAPTERS = {"moe1991", "latent_opt", "smoe_vae", "beta_vae", "vlae"}
MOVED = {"files", "vowels"}  # old addresses that warn
FLOOR = {room: k for k, rooms in enumerate(FLOORS) for room in rooms}
PACKAGE = ROOT / "genmix"


def module_of(path):
    "genmix/readers/files.py -> readers.files"
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {
    module_of(p): p
    for p in sorted(PACKAGE.rglob("*.py"))
    if not p.stem.startswith("_") and module_of(p) not in MOVED
}


def imports(path):
    "Names of the rooms that a module imports, anywhere in it."
    package = ["genmix", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{a.name}" for a in node.names}
    return {name.removeprefix("genmix.") for name in found} & set(MODULES)


def room(module):
    "The room, or the package, that has a floor."
    return module.split(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_arrows_go_down_or_sideways(module):
    assert room(module) in FLOOR, f"give {module} a floor"
    up = [m for m in imports(MODULES[module]) if FLOOR[room(m)] > FLOOR[room(module)]]
    assert not up, f"genmix.{module} imports {', '.join(up)} from a floor above"


def test_arrows_make_no_circle():
    order = TopologicalSorter({m: imports(p) for m, p in MODULES.items()}).static_order()
    assert set(order) == set(MODULES)  # a circle raises CycleError, which names it


def test_chapters_never_import_each_other():
    "But for the VAE of chapter 02, which the others are made of."
    for module in CHAPTERS:
        other = (imports(MODULES[module]) & CHAPTERS) - {module}
        assert not other, f"genmix.{module} imports {', '.join(other)}"


def test_studies_never_import_each_other():
    "A study may have pages that register nothing, such as what is measured of a run."
    studies = {f"studies.{name}" for name in STUDIES.values()} & set(MODULES)
    for module in studies:
        other = (imports(MODULES[module]) & studies) - {module}
        assert not other, f"genmix.{module} imports {', '.join(other)}"


def test_the_search_for_imports_finds_relative_ones():
    assert "readers.files" in imports(MODULES["readers.cache"])
    assert "worlds.formants" in imports(MODULES["readers.vowels"])
    assert {"configs", "saving"} <= imports(MODULES["runs"])
