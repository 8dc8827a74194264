#!/usr/bin/env python
"""Make the site's pages from the notebooks.

    python tools/build_site.py                    process the notebooks into _proc/, for Quarto
    python tools/build_site.py --render           ... and build the site in _docs/ with `quarto`
    python tools/build_site.py --preview DIR      ... and make plain pages in DIR with pandoc

nbdev does the processing (front matter, signatures, exported source, links to symbols). This script
mends what nbdev leaves rough: where a page shows a symbol's source it need not show its signature
as well, and symbols stand in the order of the source; while settings.ini names no repository
nothing may link to one; links between pages are relative, so that they work under any address. With
a GitHub repository every page can be opened in Colab. Every page says how long it takes to read and
to run.
"""

import argparse
import ast
import base64
import functools
import html
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE_LINK = re.compile(r"\[source\]\([^)]*\)\{[^}]*\}\n*")
PAGE_LINK = re.compile(r"\]\((?!\w+:)[^)\s]*?([\w-]+\.html(?:#[\w.-]+)?)\)")
REPO_LINE = re.compile(r'^\s*(repo-url|repo-branch|site-url): *(""|main)?\n', re.MULTILINE)
SHOW_DOC = re.compile(r"^show_doc\(([\w.]+)", re.MULTILINE)
EXPORTED = '#| code-summary: "Exported source"'
SYMBOL_LINK = re.compile(r"\[`([^`]+)`\]\([\w-]+\.html#[\w.-]+\)")
EVERYDAY = {
    "fit",
    "save",
    "check",
    "factors",
    "describe",
    "prepare",
    "images",
    "blend",
    "draw",
    "finish",
    "train",
    "run",
    "table",
    "constant",
    "softmax",
}
EXAMPLES = re.compile(r"^(examples?:)\n((?:  .+\n?)+)", re.MULTILINE)
FENCE = re.compile(r"```.*?```\n*", re.DOTALL)
COLAB = "https://colab.research.google.com/github/{repo}/blob/{branch}/nbs/{name}"


DOCS = "_docs"  # where Quarto puts the site
NBDEV_YML = """project:
  output-dir: {docs}

website:
  title: "{title}"
  site-url: "{doc_host}{doc_baseurl}"
  description: "{description}"
  repo-branch: {branch}
  repo-url: "{git_url}"
"""


def joined(text):
    "Notebook text is a string or a list of lines: make it a string."
    return text if isinstance(text, str) else "".join(text)


def settings():
    "The project's settings.ini."
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def quarto_yml(cfg):
    "What nbs/nbdev.yml holds: title, address and output folder."
    return NBDEV_YML.format(docs=DOCS, **cfg)


# ---------------------------------------------------------------- processing, as nbdev does it
def repair(text, cfg):
    "Markdown whose links work: pages relative, and source links only if there is a repository."
    if cfg["git_url"]:
        text = text.replace("[source](/blob/", f"[source]({cfg['git_url'].rstrip('/')}/blob/")
    else:
        text = SOURCE_LINK.sub("", text)
    base = cfg["doc_host"] + cfg["doc_baseurl"]
    if base:
        text = text.replace(f"]({base.rstrip('/')}/", "](/")
    text = PAGE_LINK.sub(r"](\1)", text)
    text = SYMBOL_LINK.sub(lambda m: m[0] if sure(m[1]) else f"`{m[1]}`", text)
    text = EXAMPLES.sub(lambda m: f"{m[1]}\n\n```sh\n{inspect.cleandoc(m[2])}\n```\n", text)
    # nbdev links symbols in signatures too, where a link is only noise
    return FENCE.sub(lambda m: re.sub(r"\[(`[^`]+`)\]\([^)]*\)", r"\1", m[0]), text)


@functools.cache
def homes():
    "Symbol -> the modules that define it, as nbdev's index has them."
    spec = importlib.util.spec_from_file_location("index", ROOT / "genmix" / "_modidx.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {}
    for module_name, symbols in module.d["syms"].items():
        for symbol in symbols:
            found.setdefault(symbol.split(".")[-1], set()).add(module_name)
    return found


def sure(name):
    """Does a name in the text mean one symbol only? nbdev links `fit` or `measure` to any module
    that has one."""
    last = name.rstrip("()").split(".")[-1]
    return name.startswith("genmix.") or (len(homes().get(last, ())) == 1 and last not in EVERYDAY)


def defined(source):
    "Names of the functions and classes that a cell defines, `Class.method` if added with @patch."
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            patched = any(ast.unparse(d).startswith("patch") for d in node.decorator_list)
            owner = ast.unparse(node.args.args[0].annotation) + "." if patched else ""
            names.append(owner + node.name)
    return names


def show_once(cells):
    """Cells in which each piece of exported source follows the headings of what it defines, without
    their signatures."""
    shown, waiting = [], {}
    for cell in cells + [None]:
        source = joined(cell["source"]) if cell else ""
        name = SHOW_DOC.search(source)
        if cell and (name or EXPORTED in source):  # a run of nbdev's documentation and source cells
            waiting[name[1] if name else f"#{len(waiting)}"] = cell
            continue
        for key in [k for k in waiting if k[0] == "#"]:
            for symbol in defined(joined(waiting[key]["source"])):
                if doc := waiting.pop(symbol, None):
                    for out in doc["outputs"]:
                        out["data"]["text/markdown"] = FENCE.sub(
                            "", joined(out["data"]["text/markdown"]), count=1
                        )
                    shown.append(doc)
            shown.append(waiting.pop(key))
        shown += [*waiting.values(), *([cell] if cell else [])]
        waiting = {}
    return shown


def colab(name, cfg):
    "A link that opens the notebook in Colab, or nothing while there is no GitHub repository."
    match = re.match(r"https://github\.com/([^/]+/[^/]+?)/?$", cfg["git_url"])
    return (
        f"[Open in Colab]({COLAB.format(repo=match[1], branch=cfg['branch'], name=name)})"
        if match
        else ""
    )


def effort(name):
    """How long a notebook is to read (prose at 200 words, code at 40 lines a minute), and to run,
    as published."""
    cells = json.loads((ROOT / "nbs" / name).read_text(encoding="utf-8"))["cells"]
    words = sum(
        len(re.findall(r"\w+", joined(c["source"]))) for c in cells if c["cell_type"] == "markdown"
    )
    lines = sum(
        line.strip() != ""
        for c in cells
        if c["cell_type"] == "code"
        for line in joined(c["source"]).splitlines()
    )
    costs = ROOT / "genmix" / "published" / "costs" / "costs.json"
    seconds = (
        json.loads(costs.read_text(encoding="utf-8"))["notebooks"].get(name.removesuffix(".ipynb"))
        if costs.is_file()
        else None
    )
    run = (
        ""
        if not seconds
        else f"{seconds:.0f} seconds"
        if seconds < 90
        else f"{seconds / 60:.0f} minutes"
    )
    return (
        f"{-(-(words * 40 + lines * 200) // 8000)} minutes to read"
        + f", {run} to run on one core" * bool(run)
    )


def finish(path, cfg):
    "Repair the links of one processed notebook, in place."
    nb = json.loads(path.read_text(encoding="utf-8"))
    nb["cells"] = show_once(nb["cells"])
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = repair(joined(cell["source"]), cfg)
        for out in cell.get("outputs", []):
            if "text/markdown" in out.get("data", {}):
                out["data"]["text/markdown"] = repair(joined(out["data"]["text/markdown"]), cfg)
    about = " · ".join(filter(None, [effort(path.name), colab(path.name, cfg)]))
    if about and path.name != "index.ipynb":
        nb["cells"].insert(
            2,
            {
                "cell_type": "markdown",
                "id": "effort",
                "metadata": {},
                "source": f"::: {{.effort}}\n{about}\n:::",
            },
        )
    path.write_text(
        json.dumps(nb, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )


def folders(root):
    "Folders with images and other files that pages show."
    return [
        p
        for p in sorted(root.iterdir())
        if p.is_dir() and p.name[0] not in "._" and p.name != "__pycache__"
    ]


def prepare(n_workers=2):
    "Process every notebook into _proc/ -> that folder."
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    from nbdev.serve import proc_nbs

    cfg = settings()
    (ROOT / "nbs" / "nbdev.yml").write_text(quarto_yml(cfg), encoding="utf-8", newline="\n")
    shutil.rmtree(ROOT / "_proc", ignore_errors=True)
    try:
        proc = Path(proc_nbs(n_workers=n_workers, force=True))
    except Exception as error:  # raised in a worker, with a long trail of process pools
        trail = str(error.__cause__).split("\nThe above exception")[0].strip()
        sys.exit(
            f"nbdev could not process the notebooks. {error}\nThe error was: "
            f"{trail.splitlines()[-1]}\n"
            "(nbdev runs only the cells that import, and the exported ones: imports need cells of "
            "their own.)"
        )
    notebooks = sorted((ROOT / "nbs").glob("[!_.]*.ipynb"))
    if missing := [nb.name for nb in notebooks if not (proc / nb.name).exists()]:
        sys.exit(f"nbdev could not process {', '.join(missing)}: see above.")
    for nb in notebooks:
        finish(proc / nb.name, cfg)
    for folder in folders(ROOT / "nbs"):  # nbdev looks into none of them (recursive = False)
        shutil.copytree(folder, proc / folder.name, dirs_exist_ok=True)
    shutil.copyfile(
        ROOT / "_quarto.yml", proc / "_quarto.yml"
    )  # the symlink is a text file on Windows
    if not cfg["git_url"]:
        yml = (proc / "nbdev.yml").read_text(encoding="utf-8")
        (proc / "nbdev.yml").write_text(REPO_LINE.sub("", yml), encoding="utf-8")
    return proc


def render(proc):
    "Build the site with Quarto -> the folder that holds it."
    if not shutil.which("quarto"):
        sys.exit(
            "Building the site needs the `quarto` command (https://quarto.org). To look at the "
            "pages without it: --preview DIR"
        )
    subprocess.run(["quarto", "render", "--no-cache"], cwd=proc, check=True)
    docs = ROOT / DOCS
    shutil.rmtree(docs, ignore_errors=True)
    shutil.move(proc / docs.name, docs)
    return docs


# ---------------------------------------------------------------- plain pages with pandoc
def front_matter(nb):
    "The first raw cell's `key: value` lines (nbdev puts title, description and output-file there)."
    import yaml

    raw = (
        joined(nb["cells"][0]["source"])
        if nb["cells"] and nb["cells"][0]["cell_type"] == "raw"
        else ""
    )
    return yaml.safe_load(raw.strip().strip("-")) or {}


def as_markdown(out, number, folder):
    "One output as pandoc markdown; images are written to `folder`."
    data = out.get("data", {})
    if out["output_type"] == "stream":
        return "~~~{.output}\n" + joined(out["text"]).rstrip() + "\n~~~\n"
    if "image/png" in data:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"cell-{number}.png"
        file.write_bytes(base64.b64decode(joined(data["image/png"])))
        width = out.get("metadata", {}).get("image/png", {}).get("width")
        return f"![]({folder.name}/{file.name})" + (f"{{width={width}}}" if width else "") + "\n"
    if "text/markdown" in data:
        return joined(data["text/markdown"]) + "\n"
    if "text/html" in data:
        return joined(data["text/html"]).strip() + "\n"
    return "~~~{.output}\n" + joined(data.get("text/plain", "")).rstrip() + "\n~~~\n"


def page_markdown(nb, folder):
    "A processed notebook as one pandoc markdown text, showing what Quarto would show."
    parts = []
    for number, cell in enumerate(nb["cells"]):
        source = joined(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            options = dict(re.findall(r"^#\| *([\w-]+): *(\S+)", source, re.MULTILINE))
            code = re.sub(r"^#\|.*\n?", "", source, flags=re.MULTILINE).strip()
            if options.get("include") == "false":
                continue
            if code and options.get("echo") != "false":
                parts.append("~~~{.python}\n" + code + "\n~~~\n")
            for k, out in enumerate(cell.get("outputs", [])):
                parts.append(as_markdown(out, f"{number}-{k}", folder))
    # pandoc's MathML drops equation numbers: write them out
    return re.sub(r"\\tag\{([^}]*)\}", r"\\qquad\\text{(\1)}", "\n\n".join(parts))


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<link rel="stylesheet" href="preview.css"><link rel="stylesheet" href="styles.css"></head>
<body class="{theme}"><nav>{nav}</nav><main><h1 class="title">{title}</h1>
<p class="lead">{description}</p>
{body}
<p class="turn">{turn}</p>
</main></body></html>
"""

PREVIEW_CSS = """
body { margin: 0; font: 17px/1.55 system-ui, sans-serif; color: #222; background: #fff; }
nav { padding: .6rem 1rem; border-bottom: 1px solid #8885; font-size: .9rem; }
nav a { margin-right: 1rem; }
nav details { display: inline-block; margin-right: 1rem; vertical-align: top; }
nav details a { display: block; }
.turn { display: flex; justify-content: space-between; gap: 1rem; margin-top: 3rem;
  border-top: 1px solid #8885; padding-top: .6rem; }
* { box-sizing: border-box; } figure { margin: 1rem 0; } main { max-width: 800px;
  margin: 0 auto; padding: 0 1rem 4rem; } a { color: #2761a8; }
pre { background: #f3f4f6; padding: .6rem; font-size: .85rem; } pre.output { background: none;
  border-left: 2px solid #a3adb8; margin-top: -.6rem; }
.quarto-dark { color: #ddd; background: #1b1d21; } .quarto-dark pre { background: #2a2d33; }
.quarto-dark a { color: #8ab8f0; }
.lead { color: #777; } .quarto-dark .lead { color: #aaa; } code { font-size: .92em; }
"""


def menu(titles, pages):
    "The sidebar of _quarto.yml as a line of menus, and the notebooks in its order."
    import yaml

    lines, order = [], []
    for entry in yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["website"][
        "sidebar"
    ]["contents"]:
        entries = [
            e if isinstance(e, dict) else {"href": e}
            for e in (entry["contents"] if isinstance(entry, dict) else [entry])
        ]
        entries = [
            (e["href"], html.escape(e["text"]) if "text" in e else titles.get(e["href"]))
            for e in entries
            if e["href"] in pages
        ]
        links = [f'<a href="{pages[name]}">{text}</a>' for name, text in entries]
        order += [name for name, _ in entries]
        lines.append(
            f"<details><summary>{entry['section']}</summary>{''.join(links)}</details>"
            if isinstance(entry, dict)
            else "".join(links)
        )
    return "\n".join(lines), order


def neighbours(name, order, titles, pages):
    "Links to the page before and the page after."
    if name not in order:
        return ""
    k = order.index(name)
    before, after = order[k - 1] if k else None, order[k + 1] if k + 1 < len(order) else None
    return "".join(
        f'<a href="{pages[n]}">{text}</a>' if n else "<span></span>"
        for n, text in ((before, f"← {titles.get(before)}"), (after, f"{titles.get(after)} →"))
    )


def preview(proc, dest, theme="quarto-light"):
    "Render every processed notebook to a page in `dest` with pandoc -> (pages, pandoc's warnings)."
    import pypandoc

    dest.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(proc / "styles.css", dest / "styles.css")
    for folder in folders(proc):
        shutil.copytree(folder, dest / folder.name, dirs_exist_ok=True)
    (dest / "preview.css").write_text(PREVIEW_CSS, encoding="utf-8")
    books = {p: json.loads(p.read_text(encoding="utf-8")) for p in sorted(proc.glob("*.ipynb"))}
    meta = {
        p: {"title": p.stem, "output-file": p.stem + ".html"} | front_matter(nb)
        for p, nb in books.items()
    }
    pages = {p.name: meta[p]["output-file"] for p in books}
    titles = {p.name: html.escape(str(meta[p]["title"])) for p in books}
    nav, order = menu(titles, pages)
    warnings, written = [], []
    for path, nb in books.items():
        text = page_markdown(nb, dest / f"{path.stem}_files")
        command = [pypandoc.get_pandoc_path(), "--from=markdown-smart", "--to=html", "--mathml"]
        done = subprocess.run(command, input=text.encode(), capture_output=True, cwd=proc)
        body, said = done.stdout.decode(), done.stderr.decode().strip()
        if done.returncode or said:
            warnings.append(f"{path.name}: {said or 'pandoc failed'}")
        body = re.sub(r'href="([^":#]+\.ipynb)', lambda m: f'href="{pages.get(m[1], m[1])}', body)
        page = dest / meta[path]["output-file"]
        title, description = (
            html.escape(str(meta[path].get(k, ""))) for k in ("title", "description")
        )
        turn = neighbours(path.name, order, titles, pages)
        page.write_text(
            PAGE.format(
                title=title, description=description, body=body, nav=nav, theme=theme, turn=turn
            ),
            encoding="utf-8",
        )
        written.append(page)
    return written, warnings


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--render", action="store_true", help="build the site with Quarto in _docs/"
    )
    parser.add_argument(
        "--preview", type=Path, metavar="DIR", help="make plain pages with pandoc in DIR"
    )
    parser.add_argument("--dark", action="store_true", help="with --preview: dark pages")
    args = parser.parse_args()
    dest = args.preview.resolve() if args.preview else None
    proc = prepare()
    if args.render:
        print(render(proc))
    if dest:
        pages, warnings = preview(proc, dest, "quarto-dark" if args.dark else "quarto-light")
        print("\n".join(map(str, pages)))
        print("\n".join(warnings), file=sys.stderr)
        return 1 if warnings else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
