"""The pages beside the chapters: what the chapters cite is in references.bib.

What is in references.bib is cited, and the page shows it.
"""

import json
import re
import unicodedata
from urllib.parse import quote, unquote

import pytest
from conftest import NBS, ROOT

BIB = ROOT / "nbs" / "references.bib"
VENUE = {
    "article": "journal",
    "inproceedings": "booktitle",
    "incollection": "booktitle",
    "book": "publisher",
    "techreport": "institution",
    "misc": "title",
}


def parse(text):
    """The entries of a .bib file, by counting braces: key -> fields, with `kind` among them.

    A `ValueError` says what is wrong.
    """
    entries, at = {}, 0
    while (start := text.find("@", at)) >= 0:
        head = re.compile(r"@(\w+)\{([\w-]+),").match(text, start)
        if not head:
            raise ValueError(f"no entry begins at {text[start : start + 40]!r}")
        depth, end = 1, head.end()
        while depth:
            if end == len(text):
                raise ValueError(f"{head[2]} has no end")
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if head[2] in entries:
            raise ValueError(f"{head[2]} is there twice")
        entries[head[2]] = {"kind": head[1], **fields(head[2], text[head.end() : end - 1])}
        at = end
    return entries


def fields(key, body):
    "name -> value of the fields of an entry."
    found, at = {}, 0
    for name in re.finditer(r"\s*(\w+)\s*=\s*\{", body):
        if name.start() < at:
            continue  # inside a value
        if body[at : name.start()].strip(", \n"):
            raise ValueError(f"{key}: {body[at : name.start()].strip()!r} is no field")
        depth, end = 1, name.end()
        while depth:
            if end == len(body):
                raise ValueError(f"{key}: {name[1]} has no end")
            depth += {"{": 1, "}": -1}.get(body[end], 0)
            end += 1
        found[name[1].lower()], at = body[name.end() : end - 1], end
    if body[at:].strip(", \n"):
        raise ValueError(f"{key}: {body[at:].strip()!r} is no field")
    return found


def joined(text):
    return text if isinstance(text, str) else "".join(text)


def lists():
    "The list of references of every notebook that has one."
    found = {}
    for path in NBS:
        if path.stem == "references":
            continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown" and (
                m := re.search(
                    r"^#+ References\n(.*?)(?=^#+ |\Z)", joined(cell["source"]), re.M | re.S
                )
            ):
                found[path.name] = found.get(path.name, "") + m[1]
    return found


def letters(text):
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", text).lower())


ENTRIES, LISTS = parse(BIB.read_text(encoding="utf-8")), lists()
ARXIV = r"(?:arXiv[: ]|arxiv\.org/abs/)(\d{4}\.\d{4,5})"
DOI = r"doi\.org/(10\.\d{4,9}/[^\s)>\"]+)"


def test_the_parser_can_fail():
    good = "% a comment\n@misc{a, title = {On {EM} = {x}}, year = {1999},}"
    assert parse(good) == {"a": {"kind": "misc", "title": "On {EM} = {x}", "year": "1999"}}
    for bad in (
        "@misc{a, title = {x}",
        "@misc{a, title = {x}, rubbish}",
        "@misc{a, y = {1}}\n@misc{a, y = {1}}",
        "@misc a",
    ):
        with pytest.raises(ValueError):
            parse(bad)


@pytest.mark.parametrize("key", ENTRIES)
def test_an_entry_is_whole(key):
    e = ENTRIES[key]
    assert {"author", "title", "year", VENUE[e["kind"]]} <= set(e)
    assert re.fullmatch(r"(19|20)\d\d", e["year"])
    assert "eprint" not in e or (
        re.fullmatch(r"\d{4}\.\d{4,5}", e["eprint"]) and e["archiveprefix"] == "arXiv"
    )
    assert "doi" not in e or re.fullmatch(r"10\.\d{4,9}/\S+", e["doi"])
    assert "url" not in e or e["url"].startswith("https://")


@pytest.mark.parametrize("field", ["title", "doi", "eprint", "url"])
def test_every_work_is_there_once(field):
    values = [letters(e[field]) for e in ENTRIES.values() if field in e]
    assert len(values) == len(set(values))


@pytest.mark.parametrize("name", LISTS)
def test_what_a_notebook_cites_is_in_the_file(name):
    known = {e[f].lower() for e in ENTRIES.values() for f in ("eprint", "doi") if f in e}
    cited = set(re.findall(ARXIV, LISTS[name])) | {
        unquote(d).lower() for d in re.findall(DOI, LISTS[name])
    }
    missing = cited - known
    assert not missing, f"nbs/references.bib lacks {', '.join(sorted(missing))}, which {name} cites"


@pytest.mark.parametrize("key", ENTRIES)
def test_some_chapter_cites_it(key):
    e = ENTRIES[key]
    author = letters(re.split(r" and |,", e["author"].strip("{}"))[0])
    titles = [
        letters(t)
        for t in (e["title"], e.get("shorttitle", e["title"]), e["title"].partition(":")[0])
    ]
    for text in LISTS.values():
        by_address = any(
            e[f].lower() in unquote(text).lower() for f in ("doi", "eprint", "url") if f in e
        )
        by_title = author in letters(text) and any(t in letters(text) for t in titles)
        if by_address or by_title:
            return
    pytest.fail(f"no notebook's list of references has {key}: {e['title']}")


def test_the_page_shows_the_file():
    cells = json.loads((ROOT / "nbs" / "references.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = "\n".join(
        joined(o.get("data", {}).get("text/markdown", ""))
        for c in cells
        if c["cell_type"] == "code"
        for o in c["outputs"]
    )
    assert BIB.read_text(encoding="utf-8").strip() in shown, (
        "python tools/execute.py nbs/references.ipynb"
    )
    for e in ENTRIES.values():
        link = (
            f"https://doi.org/{quote(e['doi'])}"
            if "doi" in e
            else f"https://arxiv.org/abs/{e['eprint']}"
            if "eprint" in e
            else e["year"]
        )
        assert link in shown
