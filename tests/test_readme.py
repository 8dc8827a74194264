"""The README says what the code does: its example prints what it shows.

Its table is the published one, its commands and links exist.
"""

import re
from pathlib import Path

import pytest
from genmix import cli
from genmix.studies import moe1991

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_example_prints_what_is_shown(python):
    blocks = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.S)
    assert len(blocks) == 5 == README.count("```python")
    assert python("-c", "".join(code for code, _ in blocks)).stdout == "".join(
        shown for _, shown in blocks
    )


def test_table_is_the_published_one():
    table = moe1991.summarize(moe1991.variant(moe1991.published("table1"), rule="smooth"))
    for system, row in table.iterrows():
        cells = [
            cell.strip()
            for cell in re.search(rf"^\| {system} \|(.*)\|$", README, re.M)[1].split("|")
        ]
        assert cells[-4:] == [
            f"{row['step']:.2g}",
            f"{row['train %']:.1f}",
            f"{row['test %']:.1f}",
            f"{row['epochs']:,.0f} ± {row['SD']:.0f}",
        ], system


def test_every_command_is_a_real_one():
    lines = [
        line.split("#")[0].split() for line in README.splitlines() if line.startswith("genmix ")
    ]
    assert len(lines) >= 5
    for words in lines:
        assert " ".join(words[1:3]) in cli.COMMANDS or words[1] in cli.COMMANDS, words


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", README))))
def test_links_lead_somewhere(link):
    file, _, heading = link.partition("#")
    assert link.startswith("https://") or (ROOT / file).exists(), link
    if not file:  # a heading of this page
        assert heading in {
            re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-")
            for h in re.findall(r"^#+ (.*)$", README, re.M)
        }


def test_front_page_is_in_step(python):
    "README and the site's first page say the same; their tables are the published results'."
    done = python("tools/front_page.py", "--check", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_front_page_shows_what_it_promises():
    for part in (
        "sentence",
        "picture",
        "ways",
        "systems",
        "chapters",
        "install",
        "reproduce",
        "test",
        "costs",
    ):
        assert f"<!-- shared: {part} -->" in README
    picture = re.search(r"!\[[^]]+\]\((nbs/images/[^)]+)\)", README)[1]
    assert (ROOT / picture).stat().st_size > 20_000
