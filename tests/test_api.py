"""The public interface: what genmix.PUBLIC promises is there, explained, and as it was.

tests/api.txt holds the signatures. After a change that is meant, `python tools/api.py` writes it
again, and the diff is a part of the change; CONTRIBUTING.md ("What stays as it is") says what may
change and how.
"""

import ast
import importlib
import inspect
import io
import json
import re
import sys
import tokenize
import warnings
from configparser import ConfigParser

import pytest
import yaml
from conftest import ROOT

import genmix

sys.path.insert(0, str(ROOT / "tools"))
import api  # noqa: E402

NAMES = [f"{module}.{name}" for module, names in genmix.PUBLIC.items() for name in names]
SYMBOLS = dict(api.symbols())
MODULES = sorted(
    ".".join(p.relative_to(ROOT / "genmix").with_suffix("").parts)
    for p in (ROOT / "genmix").rglob("*.py")
    if p.stem[0] != "_"
)


# ---------------------------------------------------------------- what is promised is there
def test_the_list_is_one_list():
    assert len(set(NAMES)) == len(NAMES) > 60 and set(genmix.PUBLIC) <= set(MODULES)
    assert (genmix.PUBLIC, genmix.METHODS) == api.promised()
    found = {name.rpartition(".")[2] for name in SYMBOLS if name.count(".") == 2}
    assert set(genmix.METHODS) <= found, (
        f"no public class has {sorted(set(genmix.METHODS) - found)}"
    )


@pytest.mark.parametrize("module", genmix.PUBLIC)
def test_public_names_exist_and_are_exported(module):
    there = importlib.import_module(f"genmix.{module}")
    missing = [n for n in genmix.PUBLIC[module] if not hasattr(there, n) or n not in there.__all__]
    assert not missing, f"genmix.{module} lacks {missing}, or its __all__ does"
    for name in genmix.PUBLIC[module]:  # what the sources say about a class is what the class has
        cls = getattr(there, name)
        has = set(dir(cls)) | {
            k for base in getattr(cls, "__mro__", ()) for k in getattr(base, "__annotations__", {})
        }
        assert {n.rpartition(".")[2] for n in SYMBOLS if n.startswith(f"{module}.{name}.")} <= has


def test_data_hands_on_what_the_readme_imports_from_it():
    from genmix import data
    from genmix.readers import files, vowels

    assert data.four_vowels is vowels.four_vowels and data.DataError is files.DataError


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("vowels", "four_vowels", "data"),
        ("vowels", "read_vowels", "readers.vowels"),
        ("files", "DataError", "data"),
        ("files", "read_npz", "readers.files"),
    ],
)
def test_old_addresses_warn_and_lead_to_the_new_ones(old, name, new):
    with pytest.warns(DeprecationWarning, match=re.escape(f"use genmix.{new}.{name}")):
        found = getattr(importlib.import_module(f"genmix.{old}"), name)
    assert found is getattr(importlib.import_module(f"genmix.{new}"), name)


# ---------------------------------------------------------------- it is explained
def comments(module):
    "line number -> the comment in that line, or on lines of its own above it."
    path = ROOT / "genmix" / f"{module.replace('.', '/')}.py"
    text = path.read_text(encoding="utf-8")
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    found = [t for t in tokens if t.type == tokenize.COMMENT]
    said = {t.start[0]: t.string for t in found}
    alone = {t.start[0] for t in found if t.line.lstrip().startswith("#")}
    for number in sorted(alone - {n - 1 for n in alone}):  # the last of several
        said.setdefault(number + 1, said[number])
    return said


def home(name):
    "The module that defines a public name: that which promises it may hand it on."
    module, _, symbol = name.partition(".")
    there = getattr(importlib.import_module(f"genmix.{module}"), symbol)
    return getattr(there, "__module__", f"genmix.{module}").removeprefix("genmix.")


def unexplained(name, node, said):
    "What is missing at a function, a class or a field: annotations, comments, the docstring."
    if isinstance(node, ast.AnnAssign):
        return [] if {node.lineno, node.end_lineno} & set(said) else ["comment"]
    if not isinstance(node, (ast.ClassDef, *api.FUNCTION)):
        return []
    constructor, method = name.endswith(".__init__"), name.count(".") > 1
    problems = [] if constructor or ast.get_docstring(node) else ["docstring"]
    if isinstance(node, ast.ClassDef):
        return problems
    args = api.parameters(node)[method:]
    where = [arg.lineno for arg in args]
    problems += [f"{arg.arg}: annotation" for arg in args if arg.annotation is None]
    if (
        constructor or not method
    ):  # methods share few words, x, z, rng; their docstrings say what they take
        problems += [
            f"{arg.arg}: comment"
            for arg in args
            if arg.end_lineno not in said or where.count(arg.lineno) > 1
        ]
    return problems + ["return: annotation"] * (node.returns is None and not constructor)


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_explained(name):
    "A docstring; annotations; comments at functions, constructors, fields; what is returned."
    said, problems = comments(home(name)), []
    for symbol, node in SYMBOLS.items():
        if (symbol == name or symbol.startswith(name + ".")) and node.lineno:
            found = unexplained(symbol, node, said)
            problems += [f"{symbol}: {', '.join(found)}"] if found else []
    assert not problems, "\n".join(problems)


def test_missing_explanations_are_found():
    "The check above can fail."
    text = "def f(a: int, b,  # two in a line\n      c,\n      d: int,  # good\n): pass\n"
    node = ast.parse(text).body[0]
    assert unexplained("m.f", node, {1: "# two in a line", 3: "# good"}) == [
        "docstring",
        "b: annotation",
        "c: annotation",
        "a: comment",
        "b: comment",
        "c: comment",
        "return: annotation",
    ]
    assert (
        unexplained(
            "m.f",
            ast.parse("def f(x: int) -> int:  # number\n    'The number.'").body[0],
            {1: "# number"},
        )
        == []
    )


@pytest.mark.parametrize("module", MODULES)
def test_quoted_annotations_name_what_the_module_has(module):
    "nbdev evaluates annotations to make pages; a name that the module does not import stops it."
    there, wrong = importlib.import_module(f"genmix.{module}"), []
    own = [
        o
        for o in vars(there).values()
        if getattr(o, "__module__", None) == there.__name__
        and (inspect.isclass(o) or inspect.isfunction(o))
    ]
    for o in own + [
        f
        for cls in own
        if inspect.isclass(cls)
        for f in vars(cls).values()
        if inspect.isfunction(f)
    ]:
        try:
            inspect.signature(o, eval_str=True)
        except NameError as e:
            wrong.append(f"{o.__qualname__}: {e}")
        except (ValueError, TypeError):  # has no signature
            pass
    assert not wrong, "\n".join(wrong)


# ---------------------------------------------------------------- it is as it was
def test_the_interface_is_the_stored_one(python):
    done = python("tools/api.py", "--check")
    assert done.returncode == 0, (
        f"{done.stdout}If this is meant: python tools/api.py, and a line in CHANGELOG.md"
    )


def test_a_changed_signature_is_noticed():
    before = ast.parse("def f(x: int, n: int = 2) -> int: ...").body[0]
    assert api.signature(before) == "(x: int, n: int=2) -> int"
    for after in (
        "def f(x: int) -> int: ...",
        "def f(x: int, n: int = 3) -> int: ...",
        "def f(x, n: int = 2) -> int: ...",
    ):
        assert api.signature(ast.parse(after).body[0]) != api.signature(before)


def test_parsed_signatures_are_those_python_sees():
    "What is read from the sources has the same parameters as what Python says after an import."
    for name in NAMES:
        node, there = (
            SYMBOLS[name],
            getattr(
                importlib.import_module(f"genmix.{name.partition('.')[0]}"), name.partition(".")[2]
            ),
        )
        if isinstance(node, api.FUNCTION):
            assert list(inspect.signature(there).parameters) == [
                a.arg for a in api.parameters(node)
            ], name


# ---------------------------------------------------------------- importing it is cheap and silent
def test_importing_genmix_imports_nothing_else_and_importing_all_warns_of_nothing(python):
    for modules in (["genmix"], [f"genmix.{m}" for m in MODULES]):
        done = python(
            "-W",
            "error",
            "-c",
            f"import sys, {', '.join(modules)}\n"
            "print(*sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))",
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert len(modules) > 1 or done.stdout.split() == [], (
            f"import genmix imports {done.stdout.strip()}"
        )


def test_the_version_is_that_of_settings():
    cfg = ConfigParser(delimiters=["="], interpolation=None)
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    assert genmix.__version__ == cfg["DEFAULT"]["version"] and re.fullmatch(
        r"\d+\.\d+\.\d+", genmix.__version__
    )


def test_the_lowest_and_the_highest_python_are_tested():
    cfg = ConfigParser(delimiters=["="], interpolation=None)
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    versions = cfg["DEFAULT"]["pythons"].split()
    tested = yaml.safe_load(
        (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    )["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert {versions[0], versions[-1]} <= set(tested) <= set(versions) and versions[0] == cfg[
        "DEFAULT"
    ]["min_python"]
    assert not [
        r
        for r in cfg["DEFAULT"]["requirements"].split()
        if re.search("[<=]=|<|~", r.replace(">=", ""))
    ], "no upper bounds for users"


# ---------------------------------------------------------------- what was written once can be read
def test_settings_that_were_published_can_be_read():
    from genmix.configs import from_dict

    found = 0
    for path in sorted((ROOT / "genmix" / "published").rglob("*.json")):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(stored, dict) and isinstance(stored.get("config"), dict):
            from_dict(stored["config"])
            found += 1
    assert found > 5


def test_settings_from_before_a_setting_was_added_get_its_default():
    "And a setting that is not known is an error that names it: CONTRIBUTING.md promises both."
    from genmix.configs import ConfigError, VAEConfig, from_dict, to_dict

    old = to_dict(VAEConfig(latent=7))
    del old["free_bits"]
    assert from_dict(old) == VAEConfig(latent=7)
    with pytest.raises(ConfigError, match="no setting 'colour'"):
        from_dict({**old, "colour": 1})


def test_published_weights_load_by_name_without_a_warning():
    from genmix.experiments import load_model
    from genmix.runs import published_names

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models = {name: load_model(name) for name in published_names()}
    assert models and all(not model.training for model in models.values())
