"""`help()` of all that is public shows parameters, types, shapes, defaults, results and errors."""

import importlib
import inspect
import io
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

import genmix
from genmix import docstrings

ROOT = Path(__file__).resolve().parent.parent
SHAPE = r"\[.*\]|any shape|the same shape|a number"
SECTIONS = ("Parameters", "Attributes", "Returns", "Raises")


def home(module):
    return importlib.import_module(f"genmix.{module}")


def public():
    "Every public function and class, and the methods of the classes, as (name, thing)."
    for module, names in genmix.PUBLIC.items():
        for name in names:
            thing = getattr(home(module), name)
            if callable(thing):
                yield f"{module}.{name}", thing
            if isinstance(thing, type):
                for method in genmix.METHODS:
                    if inspect.isfunction(found := getattr(thing, method, None)):
                        yield f"{module}.{name}.{method}", found


EVERYTHING = dict(public())


def entries(text):
    "Section -> name -> (type, default or None, description), of a docstring."
    found = {}
    for section, body in re.findall(
        rf"^({'|'.join(SECTIONS)})\n-+\n(.*?)(?=\n\n\w+\n-+\n|\Z)", text, re.M | re.S
    ):
        found[section] = {}
        for head, below in re.findall(r"^(\S.*)((?:\n    .*)*)", body, re.M):
            name, _, kind = head.partition(" : ")
            kind, _, default = kind.partition(", default ")
            said = " ".join(below.split())
            found[section][name] = kind, default, said
    return found


def parameters(thing):
    "What a caller may pass: the parameters of a function, or of a class's constructor."
    made = getattr(thing, "__init__", None)
    record = hasattr(thing, "__dataclass_fields__") or hasattr(thing, "_fields")
    if isinstance(thing, type) and not record:
        if not getattr(made, "__module__", "").startswith("genmix"):
            return []  # torch's or object's
    every = inspect.signature(thing).parameters.values()
    return [p for p in every if p.name not in ("self", "cls")]


def test_everything_public_is_covered():
    assert len(EVERYTHING) > 100


@pytest.mark.parametrize("name", EVERYTHING)
def test_summary_and_parameters(name):
    thing = EVERYTHING[name]
    text = inspect.getdoc(thing)
    assert type(text) is str and text.partition("\n")[0].rstrip().endswith((".", "?")), text
    said = entries(text)
    if isinstance(thing, type) and issubclass(thing, Exception):
        assert not said.get("Parameters")
        return
    named = said.get("Parameters", {}) | said.get("Attributes", {})
    for p in parameters(thing):
        star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        assert star + p.name in named, f"{name}: {p.name} is not described"
        kind, default, meaning = named[star + p.name]
        assert kind, f"{name}: {p.name} has no type"
        assert meaning, f"{name}: nothing is said of {p.name}"
        if p.default is not p.empty:
            assert default, f"{name}: the default of {p.name} is not shown"
        if re.search(r"\b(ndarray|Tensor)\b", kind):
            assert re.search(SHAPE, meaning), f"{name}: shape of {p.name}?"


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_is_returned(name):
    thing = EVERYTHING[name]
    said = entries(inspect.getdoc(thing))
    if isinstance(thing, type):
        assert "Returns" not in said
        return
    result = inspect.signature(thing).return_annotation
    assert ("Returns" in said) == (result not in (None, inspect.Signature.empty)), name
    for kind, (_, _, meaning) in said.get("Returns", {}).items():
        if re.search(r"\b(ndarray|Tensor)\b", kind):
            assert re.search(SHAPE, meaning), f"{name}: shape of the result?"


@pytest.mark.parametrize("name", EVERYTHING)
def test_errors_named_in_the_summary_have_a_section(name):
    text = inspect.getdoc(EVERYTHING[name])
    for error in re.findall(r"`(\w+Error)`", text.partition("\n\n")[0]):
        assert error in entries(text)["Raises"]


def test_help_renders():
    out = io.StringIO()
    pydoc.Helper(output=out).help(home("data").load)
    text = pydoc.plain(out.getvalue())
    assert 'split : str | None, default None' in text and "Raises" in text and "DataError" in text


def test_known_entries():
    said = entries(inspect.getdoc(home("data").load))
    kind, default, meaning = said["Parameters"]["seed"]
    assert (kind, default) == ("int", "0") and meaning.startswith("of the choice of n")
    fields = entries(inspect.getdoc(home("configs").VAEConfig))["Parameters"]
    assert fields["lr"] == ("float", "1e-3", "Adam's step size")
    assert fields["likelihood"][1] == '"bernoulli"'
    assert list(fields) == list(home("configs").VAEConfig.__dataclass_fields__)


def test_the_source_has_one_line():
    load = home("data").load
    assert "\n" not in load.__summary__ and inspect.getdoc(load).startswith(load.__summary__)


def test_brief_is_for_a_while():
    cls = home("configs").VAEConfig
    long = cls.__doc__
    with docstrings.brief(cls):
        assert cls.__doc__ == cls.__summary__
    assert cls.__doc__ == long


def test_light_modules_stay_light():
    code = "import sys, genmix.data, genmix.configs, genmix.docstrings\n"
    code += "print([m for m in ('torch', 'pandas', 'matplotlib') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_pages_show_the_summary_alone():
    "A page defines its functions itself; what it shows of them is the source's docstring."
    process = pytest.importorskip("nbdev.process")
    procs = importlib.import_module("nbdev.processors").FilterDefaults().procs()
    page = process.NBProcessor(ROOT / "nbs" / "00c_plots.ipynb", procs=procs)
    page.process()
    outputs = [out for cell in page.nb.cells for out in cell.get("outputs") or []]
    shown = ["".join(out.get("data", {}).get("text/markdown", "")) for out in outputs]
    assert any("Save a figure whole" in text for text in shown)
    assert not any("\n----" in text.removeprefix("---") for text in shown)


# ---------------------------------------------------------------- signatures that are hard to read
@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f():", []),
        ("def f(a, b=1, *c, d: int = 2, **e): ...", ["a", "b", "*c", "d", "**e"]),
        ("def f(a: dict[str, int] = {'x, y': (1)}, b=')'): ...", ["a", "b"]),
        ('def f(\n    a: str = "# no",  # one\n    # two\n    b: int = 0\n): ...', ["a", "b"]),
    ],
)
def test_signatures(source, names):
    items, _ = docstrings.signature_items(source.splitlines())
    assert [one.name for one in items] == names
