#!/usr/bin/env python
"""Keep README.md and the site's front page (nbs/index.ipynb) in step with each other and with the
published results.

    python tools/front_page.py           write both
    python tools/front_page.py --check   say what would change; exit code 1 if anything does

Text between `<!-- shared: NAME -->` and `<!-- end -->` stands in both; README.md has the source.
What these blocks hold between `<!-- computed -->` and `<!-- /computed -->` is made here: the table
of headline numbers (`genmix.reproduce.headlines`), the table of costs and the output of the
commands (`genmix/published/costs`). Links are those of the README; in the notebook they are
relative to nbs/.
"""

import argparse
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from build_site import effort

ROOT = Path(__file__).resolve().parent.parent
SHARED = re.compile(r"<!-- shared: ([\w-]+) -->\n(.*?)<!-- end -->", re.S)
COMPUTED = re.compile(
    r"(<!-- shared: ([\w-]+) -->\n(?:(?!<!-- end -->).)*?<!-- computed -->\n)"
    r".*?(<!-- /computed -->)",
    re.S,
)
CHAPTERS = {  # as `genmix reproduce` calls them -> notebook, name
    "moe1991": ("01_moe1991", "Adaptive mixtures of local experts, 1991"),
    "latent-opt": ("03_amortized_vs_latent", "Conv VAE: an encoder, or a free code per image"),
    "smoe-vae": ("04_smoe_vae", "SMoE-VAE: decoders as experts"),
    "beta-vae": ("05_beta_vae", "β-VAE and λβ-VAE"),
    "vlae": ("06_vlae", "Variational lossy autoencoder"),
}


ORDER = (
    "01_moe1991",
    "02_conv_vae",
    "02a_training",
    "02b_runs",
    "02d_systems",
    "03_amortized_vs_latent",
    "04_smoe_vae",
    "05a_metrics",
    "05_beta_vae",
    "06_vlae",
    "07_figures",
    "08_experiments",
    "08a_report",
    "08b_reproduce",
    "09_cli",
)


def table(rows):
    "Rows of cells as Markdown, the first one the head."
    head, *body = [[str(cell) for cell in row] for row in rows]
    return (
        "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])
        + "\n"
    )


def headline_table():
    from genmix.reproduce import headlines

    rows, before = [("system", "number", "published", "ours", "ours was made with")], None
    for r in headlines().itertuples():
        notebook, name = CHAPTERS[r.chapter]
        rows.append(
            (
                "" if r.chapter == before else f"[{notebook[:2]}](nbs/{notebook}.ipynb) {name}",
                r.quantity,
                r.paper,
                f"**{r.ours}**",
                r.made,
            )
        )
        before = r.chapter
    return table(rows)


BUSY = "one core, two notebooks at a time beside other work: an upper bound"


def costs():
    from genmix.runs import published

    return published("costs", "costs").value


def cost_table():
    c = costs()
    minutes = sum(c["notebooks"].values()) / 60
    chapters = "; ".join(f"{name} {n['models']}" for name, n in c["chapters"].items())
    total, tests = sum(n["models"] for n in c["chapters"].values()), c["tests"]
    rows = [
        ("what", "time", "download", "made on"),
        (
            "`genmix reproduce`",
            f"{c['seconds'] / 60:.1f} minutes",
            "none",
            f"{c['provenance']['cores']} cores; {total} models ({chapters})",
        ),
        ("all notebooks, top to bottom", f"{minutes:.0f} minutes at most", "none", BUSY),
        (
            "`pytest`",
            f"{tests['minutes']:.0f} minutes",
            "none",
            f"{c['provenance']['cores']} cores; {tests['said']}",
        ),
        (
            "`genmix reproduce --preset paper`",
            "weeks; see `--cost`",
            "five sets, 13 GB",
            "says beforehand what it will take on your machine",
        ),
    ]
    return table(rows)


def output():
    "What `genmix reproduce` printed when it was measured, with modules by the names of today."
    from genmix.runs import _as_named_now

    return "```\n" + "\n".join(map(_as_named_now, costs()["said"])) + "\n```\n"


def chapter_table():
    rows = [("", "chapter", "what it is about", "read", "run")]
    for name in ORDER:
        first = json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"][0]
        title, summary = re.match(r"# (.*)\n+> (.*)", "".join(first["source"])).groups()
        read, _, run = (
            effort(f"{name}.ipynb").replace("minutes", "min").replace("seconds", "s").partition(",")
        )
        times = read.removesuffix(" to read"), run.strip().removesuffix(" to run on one core")
        rows.append(
            (name.partition("_")[0], f"[{title}](nbs/{name}.ipynb)", summary.rstrip("."), *times)
        )
    return table(rows)


MAKERS = {
    "chapters": chapter_table,
    "systems": headline_table,
    "costs": cost_table,
    "reproduce": output,
}


def filled(text):
    "The README with its computed parts made anew."
    return COMPUTED.sub(lambda m: m[1] + MAKERS[m[2]]() + m[3], text)


def for_notebook(text):
    "Links and pictures of the README, as seen from nbs/."
    text = re.sub(r"<!-- /?computed -->\n?", "", text)
    text = re.sub(r"\]\(nbs/", "](", text)
    text = re.sub(
        r"!\[([^\]]*)\]\(([^)]*)\)\n\n\*(.*?)\*\n",
        r'![\3](\2){.hero fig-alt="\1"}\n',
        text,
        flags=re.S,
    )  # the caption beneath, not twice
    return text.strip()


def synced(nb, blocks):
    """The notebook's shared cells with the README's text; every cell that begins with a marker is
    one block."""
    seen = set()
    for cell in nb["cells"]:
        source = "".join(cell["source"])
        m = re.match(r"<!-- shared: ([\w-]+) -->", source)
        if m and cell["cell_type"] == "markdown":
            seen.add(m[1])
            new = f"<!-- shared: {m[1]} -->\n{for_notebook(blocks[m[1]])}"
            cell["source"] = new.splitlines(keepends=True)
    if missing := set(blocks) - seen:
        sys.exit(f"nbs/index.ipynb has no cell for {', '.join(sorted(missing))}")
    return nb


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    a = parser.parse_args()
    readme, index = ROOT / "README.md", ROOT / "nbs" / "index.ipynb"
    text = filled(readme.read_text(encoding="utf-8"))
    nb = synced(json.loads(index.read_text(encoding="utf-8")), dict(SHARED.findall(text)))
    new = {readme: text, index: json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"}
    stale = [path for path, content in new.items() if path.read_text(encoding="utf-8") != content]
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'is not in step' if a.check else 'written'}")
        if not a.check:
            path.write_text(new[path], encoding="utf-8")
    return 1 if a.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
