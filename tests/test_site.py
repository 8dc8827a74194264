"""The site's pages can be made from the notebooks.

Every formula converts, every link leads somewhere, every image is there.
"""

import html
import re
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
import yaml
from conftest import NBS, ROOT, copy_of_the_tree, shared, tool

SETTINGS = ConfigParser(delimiters=["="], interpolation=None)
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]


def build(tree, out):
    "Run tools/build_site.py --preview in `tree`."
    subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info"], cwd=tree, capture_output=True, timeout=600
    )  # nbdev's links to symbols
    return subprocess.run(
        [sys.executable, "-W", "ignore", "tools/build_site.py", "--preview", str(out)],
        cwd=tree,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=1800,
        env=environment(tree),
    )


def environment(tree):
    import os

    return {**os.environ, "PYTHONPATH": str(tree), "PYTHONUTF8": "1"}


class Page(HTMLParser):
    "The links, images and anchors of a page, and TeX that stayed TeX."

    def __init__(self, path):
        super().__init__()
        self.links, self.images, self.ids, self.tex = [], [], set(), 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
        self.links += [attrs["href"]] if attrs.get("href") else []
        self.images += [attrs["src"]] if attrs.get("src") else []
        self.tex += "math" in attrs.get("class", "").split()


def dead_ends(pages):
    "Links and images of the pages (a dict of path -> Page) that lead nowhere."
    dead = []
    for path, page in pages.items():
        for link in page.links + page.images:
            target, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            file = (path.parent / target).resolve() if target else path
            if target.startswith("/") or not file.is_file():
                dead.append(f"{path.name}: {link}")
            elif anchor and file in pages and anchor not in pages[file].ids:
                dead.append(f"{path.name}: {link} (no such heading)")
    return dead


@pytest.fixture(scope="session")
def site(tmp_path_factory, worker_id):
    "The pages of this checkout, made once in a copy, for all workers: path -> Page."

    def make(folder):
        done = build(copy_of_the_tree(folder), folder / "pages")
        assert done.returncode == 0, "\n".join([done.stdout[-1000:], done.stderr[-5000:]])

    folder = shared(tmp_path_factory, worker_id, "site", make)
    return {path.resolve(): Page(path) for path in (folder / "pages").glob("*.html")}


def test_every_notebook_becomes_a_page(site):
    assert len(site) == len(NBS) and {"index.html", "notation.html", "moe1991.html"} <= {
        p.name for p in site
    }


def test_every_formula_converts(site):
    assert not [p.name for p, page in site.items() if page.tex]
    maths = (p for p in site if p.name == "notation.html")
    assert next(maths).read_text(encoding="utf-8").count("<math") > 20  # and there are formulas


def test_no_dead_links_and_no_missing_images(site):
    assert sum(len(page.images) for page in site.values()) > 0
    dead = dead_ends(site)
    assert not dead, "\n".join(dead)


def test_symbols_are_shown_once_and_in_order(site):
    """A heading and the docstring for each function of an exported cell, then their source.

    No signature twice, no links in code.
    """
    page = next(p for p in site if p.name == "moe_tools.html").read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert page.index('id="design"') < page.index('id="one_hot"')
    assert text.count("def design(") == text.count("def one_hot(") == 1
    assert text.index("\none_hot\n") < text.index("def design(") < text.index("def one_hot(")
    assert not re.search(r"\]\(\w+\.html", text)


@pytest.mark.skipif(bool(SETTINGS["git_url"]), reason="settings.ini names a repository")
def test_nothing_links_to_a_repository_that_is_not_there(site):
    ours = re.compile(r"/blob/|/tree/|colab\.research|github\.(com|io)/[^\"]*genmix")
    found = [
        f"{p.name}: {link}" for p, page in site.items() for link in page.links if ours.search(link)
    ]
    texts = [
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "_quarto.yml")
    ]
    found += [p.name for p in texts if p.exists() and ours.search(p.read_text(encoding="utf-8"))]
    assert not found


def test_the_checks_can_fail(tmp_path, tree):
    "A formula that does not convert, a dead link, a missing image: each is found."
    broken = tmp_path / "pages"
    broken.mkdir()
    (broken / "a.html").write_text(
        '<h2 id="here"></h2><a href="b.html">x</a><a href="#gone">x</a>'
        '<a href="#here">x</a><img src="c.png">'
    )
    pages = {(broken / "a.html").resolve(): Page(broken / "a.html")}
    assert dead_ends(pages) == [
        "a.html: b.html",
        "a.html: #gone (no such heading)",
        "a.html: c.png",
    ]

    keep = tree / "nbs" / "notation.ipynb"
    for path in (tree / "nbs").glob("*.ipynb"):
        if path != keep:
            path.unlink()
    keep.write_text(
        keep.read_text(encoding="utf-8").replace(
            "One rule for sums", "$\\\\notacommand{x}$ One rule for sums", 1
        ),
        encoding="utf-8",
    )
    done = build(tree, tmp_path / "out")
    assert done.returncode == 1 and "notacommand" in done.stderr


# ---------------------------------------------------------------- files beside the notebooks
def sidebar(contents):
    for entry in contents:
        yield from (
            sidebar(entry["contents"])
            if "contents" in entry
            else [entry["href"] if isinstance(entry, dict) else entry]
        )


def test_the_sidebar_lists_every_notebook_once():
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    assert sorted(sidebar(config["website"]["sidebar"]["contents"])) == sorted(p.name for p in NBS)
    assert config["metadata-files"] == ["nbdev.yml"]
    assert (ROOT / "nbs" / "_quarto.yml").read_text(encoding="utf-8") in (
        (ROOT / "_quarto.yml").read_text(encoding="utf-8"),
        "../_quarto.yml",
    )


def test_nbdev_yml_is_what_settings_say():
    stored = (ROOT / "nbs" / "nbdev.yml").read_text(encoding="utf-8")
    assert stored == tool("build_site").quarto_yml(SETTINGS)


def test_settings_and_pyproject_agree():
    "settings.ini has names, versions and requirements, pyproject.toml what nbdev alone reads."
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)
    nbdev = project["tool"]["nbdev"]
    assert set(nbdev) & set(SETTINGS) == {"title", "lib_path", "branch"}
    assert all(nbdev[key] == SETTINGS[key] for key in set(nbdev) & set(SETTINGS))
    assert nbdev["strip_libs"] == SETTINGS["lib_name"]
    assert nbdev["doc_path"] == tool("build_site").DOCS
    # nbdev's own names for what settings.ini says must not stand in a second place
    assert "project" not in project and SETTINGS["version"] not in text
    assert project["build-system"]["requires"] == ["setuptools>=77"]
    needs = SETTINGS["dev_requirements"].split()
    assert "setuptools>=77" in needs  # what builds in isolation builds in the tests, too
    capped = [need for need in needs if re.search(r"<|==|~=", need)]
    assert not capped, "upper bounds in the dev extra would downgrade what is current"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_in_text_files_lead_somewhere(name):
    text = re.sub(
        r"```.*?```|`[^`\n]*`", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL
    )
    links = re.findall(r"\]\(([^)\s#]+)", text) + re.findall(r'(?:src|href)="([^"#]+)"', text)
    dead = [link for link in links if not re.match(r"[a-z]+:", link) and not (ROOT / link).exists()]
    assert not dead


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    init = re.search(
        r'__version__ = "(.*)"', (ROOT / "genmix" / "__init__.py").read_text(encoding="utf-8")
    )[1]
    assert SETTINGS["version"] == citation["version"] == init
    assert SETTINGS["version"] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# ---------------------------------------------------------------- workflows
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_workflows_are_sound(path):
    flow = yaml.safe_load(path.read_text(encoding="utf-8"))
    steps = [step for job in flow["jobs"].values() for step in job["steps"]]
    assert flow[True] and "permissions" in flow  # YAML reads the key `on` as True
    uses = [step["uses"] for step in steps if "uses" in step]
    assert uses and all(re.search(r"@(v\d+|release/v\d+)$", use) for use in uses), uses
    assert "-U nbdev" not in path.read_text(encoding="utf-8")
    for step in steps:  # a script that is named exists
        assert all(
            (ROOT / script).exists()
            for script in re.findall(r"python (\S+\.py)", step.get("run", ""))
        )


def test_there_are_workflows():
    assert [p.stem for p in WORKFLOWS] == ["release", "site", "test"]


def test_every_python_that_we_claim_is_tested():
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    matrix = flow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == SETTINGS["pythons"].split()
    assert {case["python"] for case in matrix["include"]} <= set(matrix["python"])
