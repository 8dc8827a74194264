"""The table of vowels: hostile files, the four-vowel task, the published statistics.

Nothing here needs a network or a data file. Tests of the real table run when GENMIX_DATA holds it,
and are skipped with a message when it does not.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genmix import data
from genmix.worlds import formants
from genmix.data import DataError

GOOD = data.load("formants", seed=0).to_csv()
SMALL = data.VowelData(
    **formants.formants(0, 3, 3, 3), name="formants", origin="synthetic", source="test"
).to_csv()
FIRST = GOOD.splitlines()[1]  # m,m,1,i,1,f0,f1,f2,f3


@pytest.fixture(autouse=True)
def no_data_folder(request, monkeypatch):
    "No test sees the data on this machine, unless it asks for the `real` table."
    if "real" not in request.fixturenames:
        monkeypatch.delenv("GENMIX_DATA", raising=False)


@pytest.fixture
def real(real_vowels):
    return data.read_vowels(real_vowels)


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def write(folder, text, name="mine.csv"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def row(**changes):
    "The good table with the first row's fields changed."
    fields = dict(zip(data.HEADER, FIRST.split(","))) | changes
    return GOOD.replace(FIRST, ",".join(str(v) for v in fields.values()), 1)


# ---- files that are fine

FINE = {
    "as written": GOOD,
    "byte-order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "Windows line ends": GOOD.replace("\n", "\r\n"),
    "old Macintosh line ends": GOOD.replace("\n", "\r"),
    "quoted": "\n".join(",".join(f'"{c}"' for c in line.split(",")) for line in GOOD.splitlines()),
    "no newline at the end": GOOD.rstrip("\n"),
    "empty lines": GOOD.replace("\n", "\n\n"),
    "spaces after commas": GOOD.replace(",", ", "),
    "shuffled rows": GOOD.splitlines()[0] + "\n" + "\n".join(sorted(GOOD.splitlines()[1:])),
}


@pytest.mark.parametrize("name", FINE)
def test_reads(tmp_path, name):
    d = data.read_vowels(write(tmp_path, FINE[name]))
    assert (
        len(d) == 1520
        and d.origin == "user"
        and d.formants.shape == (1520, 4)
        and d.formants.dtype == float
    )
    want = data.load("formants")
    assert np.sort(d.formants, axis=0).tolist() == np.sort(want.formants, axis=0).tolist()


# ---- files that are not: text, line named (None: no line), words of the message

LINES = GOOD.splitlines(keepends=True)
HOSTILE = {
    "empty": ("", None, "the file is empty"),
    "only spaces": (" \n\n", None, "the file is empty"),
    "only a header": (LINES[0], 1, "nothing follows the header"),
    "no header": ("".join(LINES[1:]), 1, "expected type,sex,speaker,vowel,repetition,f0,f1,f2,f3"),
    "other header": (GOOD.replace("type,", "kind,", 1), 1, "the header is 'kind,sex"),
    "columns swapped": (GOOD.replace("f1,f2", "f2,f1", 1), 1, "the header is"),
    "semicolons": (GOOD.replace(",", ";"), 1, "the header is"),
    "UTF-16": (GOOD.encode("utf-16"), 1, "not UTF-8"),
    "a vowel of another alphabet": (
        LINES[0] + LINES[1] + "m,m,1,\xe4,2,1,2,3,4\n",
        3,
        "vowel is '\\xe4'",
    ),
    "Latin-1 in line 3": (
        (LINES[0] + LINES[1]).encode() + b"m,m,1,\xe4,2\n",
        3,
        "byte 0xe4 is not UTF-8",
    ),
    "NUL in line 2": (GOOD.replace("m,m,1", "m,\0,1", 1), 2, "binary data"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), 1, "not UTF-8"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(range(200)), 1, "not UTF-8"),
    "error page": ("<!DOCTYPE html>\n<html><title>404: Not Found</title></html>", 1, "web page"),
    "error page with spaces": ("\n  <html>", 1, "web page"),
    "not found": ("404: Not Found", 1, "the header is '404: Not Found'"),
    "pointer of git-lfs": (
        "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 53026\n",
        1,
        "the header is",
    ),
    "cut in a row": ("".join(LINES[:700]) + "m,m,35,i", 701, "cut short"),
    "cut between rows": ("".join(LINES[:700]), 700, "ends without vowel"),
    "row too long": (GOOD.replace(FIRST, FIRST + ",1", 1), 2, "the row has 10 fields"),
    "open quote": (
        GOOD.replace(FIRST, '"' + FIRST, 1),
        None,
        "expected 9 fields separated by commas",
    ),
    "a field without end": (LINES[0] + "m," + "x" * 200_000, 2, "not CSV"),
    "unknown type": (row(type="x"), 2, "type is 'x'; expected one of m w c"),
    "unknown sex": (row(sex="male"), 2, "sex is 'male'"),
    "unknown vowel": (row(vowel="y"), 2, "vowel is 'y'"),
    "speaker not a number": (row(speaker="one"), 2, "speaker is 'one'"),
    "speaker 0": (row(speaker="0"), 2, "speaker is '0'"),
    "repetition 1.5": (row(repetition="1.5"), 2, "repetition is '1.5'"),
    "digits of another script": (row(speaker="\u0661"), 2, "speaker is"),
    "not a number": (row(f1="abc"), 2, "f1 is 'abc'; expected a frequency between 100 and 2000 Hz"),
    "nan": (row(f1="nan"), 2, "f1 is 'nan'"),
    "infinite": (row(f3="inf"), 2, "f3 is 'inf'"),
    "empty field": (row(f2=""), 2, "f2 is ''"),
    "zero": (row(f1=0), 2, "f1 is '0'"),
    "negative": (row(f1=-300), 2, "f1 is '-300'"),
    "in kHz": (row(f1=0.3), 2, "f1 is '0.3'"),
    "underscore": (row(f1="3_00"), 2, "f1 is '3_00'"),
    "huge": (row(f3="9" * 400), 2, "f3 is '999"),
    "formants out of order": (row(f1=900, f2=800), 2, "f1 <= f2 <= f3"),
    "the same row twice": (GOOD + LINES[-1], 1522, "again (first in line 1521)"),
    "a speaker of two types": (
        GOOD.replace("\nm,m,1,I,1", "\nw,f,1,I,1", 1),
        4,
        "speaker 1 is type w, but was m before",
    ),
    "a row missing": (
        GOOD.replace(LINES[5], "", 1),
        20,
        "speaker 1 ends without vowel E, repetition 1",
    ),
    "too large": (GOOD + "\n" * 10_000_001, None, "too large"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses(tmp_path, name):
    text, line, words = HOSTILE[name]
    path = write(tmp_path, text)
    with pytest.raises(DataError) as e:
        data.read_vowels(path)
    message = str(e.value)
    assert message.startswith(f"{path}, line {line}: " if line else f"{path}"), message
    assert (
        words in message and "; expected " in message and "genmix data fetch vowels" in message
    ), message
    assert message.isprintable() and "\n" not in message and len(message) < 400 + len(str(path)), (
        message
    )


def test_refuses_what_is_no_file(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        data.read_vowels(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="not a file"):
        data.read_vowels(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        data.read_vowels("x" * 5000)
    with pytest.raises(DataError, match="cannot be read"):
        data.read_vowels("nul\0byte.csv")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything"
)
def test_refuses_what_may_not_be_read(tmp_path):
    path = write(tmp_path, GOOD)
    path.chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        data.read_vowels(path)


mutation = st.tuples(
    st.sampled_from(["set", "delete", "insert", "cut", "repeat"]),
    st.integers(0, len(SMALL) - 1),
    st.binary(min_size=1, max_size=4),
)


def mutated(raw: bytes, changes) -> bytes:
    for what, at, new in changes:
        at %= max(len(raw), 1)
        raw = {
            "set": raw[:at] + new + raw[at + len(new) :],
            "delete": raw[:at] + raw[at + len(new) :],
            "insert": raw[:at] + new + raw[at:],
            "cut": raw[:at],
            "repeat": raw[:at] + raw[max(0, at - 40) : at] + raw[at:],
        }[what]
    return raw


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(mutation, min_size=1, max_size=4))
def test_fuzz(tmp_path, changes):
    "Any damage: a DataError, or a table that keeps every promise."
    path = write(tmp_path, mutated(SMALL.encode(), changes))
    try:
        d = data.read_vowels(path)
    except DataError as e:
        assert str(e).startswith(str(path)) and str(e).isprintable()
    else:
        assert (
            np.isfinite(d.formants).all()
            and (d.formants > 0).all()
            and (np.diff(d.formants[:, 1:]) >= 0).all()
        )
        assert (
            set(d.vowel) <= set(formants.VOWELS)
            and set(d.kind) <= set(formants.KINDS)
            and d.origin == "user"
        )
        assert len(d) == len(set(zip(d.speaker, d.vowel, d.repetition)))


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=300))
def test_fuzz_junk(tmp_path, raw):
    with pytest.raises(DataError):
        data.read_vowels(write(tmp_path, raw))


# ---- the four-vowel task


def speakers(men, women, children):
    return data.VowelData(
        **formants.formants(0, men, women, children),
        name="formants",
        origin="synthetic",
        source="test",
    )


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(3, 12),
    st.integers(3, 12),
    st.integers(3, 12),
    st.sampled_from(["stratified", "shifted"]),
    st.none() | st.integers(0, 99),
)
def test_no_speaker_on_both_sides(men, women, children, split, seed):
    d = speakers(men, women, children)
    t = data.four_vowels(d, split, seed=seed)
    sides = [set(t.speakers_train), set(t.speakers_test), set(t.left_out)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == men + women + children
    assert len(t.X_train) == len(t.y_train) == 8 * len(t.speakers_train) and len(t.X_test) == len(
        t.y_test
    ) == 8 * len(t.speakers_test)
    if split == "stratified":
        assert (
            len(t.speakers_train) == 2 * len(t.speakers_test)
            and len(t.left_out) == men % 3 + women % 3 + children % 3
        )


def test_four_vowels_takes_the_right_rows():
    d = speakers(3, 3, 3)
    t = data.four_vowels(d, "shifted")
    assert t.speakers_train == (1, 2, 3, 4, 5, 6)
    for c, v in enumerate(t.classes):
        want = d.formants[(d.vowel == v) & (d.speaker <= 6), 1:3] / 1000
        assert t.X_train[t.y_train == c].tolist() == want.tolist()


def test_four_vowels_of_a_small_table():
    with pytest.raises(DataError, match="only 2 women"):
        data.four_vowels(speakers(3, 2, 3))
    with pytest.raises(DataError, match="only 2 speakers"):
        data.four_vowels(speakers(2, 0, 0), "shifted")
    assert (
        len(data.four_vowels(speakers(3, 0, 0)).speakers_test) == 1
    )  # a kind that is not there is no error


# ---- the published statistics, and the real table


def test_published_statistics_are_numbers_only_and_have_provenance():
    stats = formants.published_statistics()
    assert (
        stats["provenance"]["sha256"] == data.OFFICIAL
        and stats["provenance"]["url"] == data.SETS["vowels"].files[0].url
    )
    for s in stats["kinds"].values():
        assert np.shape(s["mean"]) == (10, 4) and np.shape(s["between"]) == np.shape(
            s["within"]
        ) == (10, 4, 4)
        assert all(0 <= r <= 1 for r in s["rho"])


def test_write_formant_statistics(tmp_path):
    table = formants.formants(1) | {"sha256": "none: SYNTHETIC"}
    out = formants.write_formant_statistics(table, tmp_path / "stats.json", "nowhere")
    stats = json.loads(out.read_text())
    assert stats["provenance"]["sha256"] == "none: SYNTHETIC" and files(tmp_path) == ["stats.json"]
    again = formants.formant_statistics(table)
    assert stats["kinds"] == json.loads(json.dumps(again["kinds"]))


def test_real_table(real):
    assert len(real) == 1520 and real.origin == "official"
    assert (
        real.describe()
        == "data: vowels, official (Peterson & Barney 1952, "
        "76 speakers x 10 vowels x 2 = 1,520 rows; sha256 a1cc7f9d...)"
    )
    assert (
        real.formants[0].tolist() == [160, 240, 2280, 2850]
        and real.vowel[0] == "i"
        and real.kind[0] == "m"
    )
    t, s = data.four_vowels(real), data.four_vowels(real, "shifted")
    assert (len(t.X_train), len(t.X_test), t.left_out) == (400, 200, (61,))
    assert (len(s.X_train), len(s.X_test), s.left_out) == (400, 208, ())
    assert Path(real.source).stat().st_size == data.SETS["vowels"].files[0].size


def test_published_statistics_are_those_of_the_real_table(real):
    again, stats = formants.formant_statistics(vars(real)), formants.published_statistics()
    assert again["gaussian_accuracy"] == stats["gaussian_accuracy"]
    for k, s in again["kinds"].items():
        for name in ("mean", "between", "within", "rho"):
            np.testing.assert_allclose(s[name], stats["kinds"][k][name], atol=2e-4)
