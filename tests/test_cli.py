"""The command line, end to end: help, exit codes, one-line errors, interrupts, pipes.

And runs that leave what they promise.
"""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from dataclasses import fields, replace
from pathlib import Path

import genmix
import pytest
from genmix import cli, configs
from genmix.saving import write_atomic

HEAVY = ("torch", "torchvision", "matplotlib", "sklearn", "pandas", "numpy")
LEVELS = ["", "data", "train", *cli.COMMANDS]
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals, terminals or devices")


@pytest.fixture
def experiments(monkeypatch):
    "A stand-in for genmix.experiments which trains nothing and remembers what it was asked for."
    fake = types.ModuleType("genmix.experiments")
    fake.asked, fake.error = [], None

    def answer(*args, **kw):
        if fake.error:
            raise fake.error
        fake.asked.append((args, kw))
        return kw["out"]

    fake.train = answer
    report = types.ModuleType("genmix.reproduce")
    report.reproduce = answer
    for name, module in (("experiments", fake), ("reproduce", report)):
        monkeypatch.setitem(sys.modules, f"genmix.{name}", module)
        monkeypatch.setattr(genmix, name, module, raising=False)
    return fake


def heed_sigint():
    "In a child: Ctrl-C counts, even where this test run ignores it (nohup, a shell's &)."
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def one_line_error(result, says="", code=2):
    "The whole of stderr is one line of ours that says so."
    assert result.returncode == code, (result.stdout, result.stderr)
    assert re.fullmatch(r"genmix: [^\n]+\n", result.stderr), result.stderr
    assert says in result.stderr, result.stderr


# ---------------------------------------------------------------- help
@pytest.mark.parametrize("words", LEVELS)
def test_help(command, words):
    result = command(*words.split(), "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"usage: genmix {words}".rstrip() in result.stdout
    assert "exit codes: 0 done" in result.stdout and "--debug" in result.stdout
    for name in cli.COMMANDS:
        if words in ("", "data", "train") and name.startswith(words):
            assert f"genmix {name} " in result.stdout  # an overview lists its commands
    if words in cli.COMMANDS:
        assert f"\n  genmix {words}" in result.stdout  # a command shows an example
    if words.startswith("train "):
        for option, _, meaning in configs.options_table(configs.SYSTEMS[words.split()[1]]):
            for flag in option.split(" / "):
                assert re.search(rf"{flag}\b", result.stdout), flag
            plain = [
                re.sub(r"[\s│|]+", " ", text) for text in (meaning.split(" (")[0], result.stdout)
            ]
            assert plain[0] in plain[1], option


def test_help_loads_nothing_heavy(python):
    "Modules are looked at, not a clock: a test that depends on time fails on a busy machine."
    code = f"""
import sys
from genmix.cli import main
for words in {LEVELS!r}:
    assert main(words.split() + ["--help"]) == 0
    print("loaded:", [name for name in {HEAVY!r} if name in sys.modules])
"""
    loaded = re.findall(r"^loaded: .*$", python("-c", code).stdout, re.MULTILINE)
    assert loaded == ["loaded: []"] * len(LEVELS)


def test_alone_and_version(command, process):
    alone = command()
    assert (
        alone.returncode == 0 and alone.stdout == command("--help").stdout == command("-h").stdout
    )
    assert command("--version").stdout == f"genmix {genmix.__version__}\n"
    for words in ((), ("--version",), ("train", "moe1991", "--help"), ("trian",), ("train", "-x")):
        there, here = process(*words), command(*words)
        assert (there.returncode, there.stdout, there.stderr) == (
            here.returncode,
            here.stdout,
            here.stderr,
        )


def test_help_shows_the_defaults_that_would_be_used(command, tmp_path):
    text = command("train", "moe1991", "--preset", "debug", "--help").stdout
    assert "(default: formants)" in text and "(default: 200)" in text
    file = write_atomic(
        tmp_path / "config.json", json.dumps({"config": "moe1991", "seed": 4321})
    )
    assert "(default: 4321)" in command("train", "moe1991", "--config", file, "--help").stdout


# ---------------------------------------------------------------- wrong usage
@pytest.mark.parametrize(
    "line, says",
    [
        ("trian", "data, train, sweep, metrics, sample, reproduce, figures"),
        ("train", "genmix train moe1991, genmix train table1"),
        ("train moe1992", "genmix train moe1991, genmix train table1"),
        ("data", "genmix data list, genmix data fetch, genmix data check"),
        ("train moe1991 --preset thorough", "it has quick, debug, paper, earlier"),
        ("train table1 --preset earlier", "it has quick, debug, paper"),
        ("train moe1991 --preset=debug --config=x.json", "give one of them"),
        ("train moe1991 --config x.json", "x.json: no such file"),
        ("train moe1991 --config .", "config.json: no such file"),
        ("reproduce moe1991 nothing", "cannot reproduce 'nothing'; there is moe1991"),
        ("reproduce moe1991 --config x.json", "leave out moe1991"),
        ("data check nothing", "vowels, mnist"),
        ("data check missing.csv", "missing.csv"),
        ("data fetch formants", "nothing needs to be fetched"),
    ],
)
def test_wrong_usage_gets_one_line(command, line, says):
    one_line_error(command(*line.split()), says)


@pytest.mark.parametrize(
    "line, says",
    [
        ("train moe1991 --experts 0", "experts must be at least 1, got 0"),
        ("train moe1991 --lr nan", "lr must be a finite number above 0, got nan"),
        ("train moe1991 --sigma -1", "sigma must be a finite number above 0, got -1.0"),
        ("train moe1991 --split random", "stratified"),
        ("train moe1991 --epochs many", "--epochs"),
        ("train moe1991 --expertts 4", "--experts"),
        ("train moe1991 --preset", "--preset"),
        ("train moe1991 something", "something"),
        ("train table1 --trials 0", "trials must be at least 1, got 0"),
        ("reproduce --preset thorough", "quick"),
        ("data list everything", "everything"),
    ],
)
def test_wrong_options_get_the_parsers_box(command, line, says):
    result = command(*line.split())
    assert (result.returncode, result.stdout) == (2, "")
    assert says in result.stderr and "--help" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "line 1: this is not JSON"),
        (b'{"config": "moe1991",\n"experts": ', "line 2: this is not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[]", "got list"),
        (b"{}", "'config' must name a system"),
        (b'{"config": "table1"}', "settings of table1, not of moe1991"),
        (b'{"config": "moe1991", "expert_count": 8}', "no setting 'expert_count'"),
        (b'{"config": "moe1991", "experts": "8"}', "experts must be a whole number, got '8'"),
        (b'{"config": "moe1991", "lr": NaN}', "lr must be a finite number above 0, got nan"),
    ],
)
def test_hostile_configs(command, tmp_path, content, says):
    (tmp_path / "broken.json").write_bytes(content)
    result = command("train", "moe1991", "--config", "broken.json")
    one_line_error(result, says)
    assert "broken.json" in result.stderr


@pytest.mark.parametrize(
    "line", ["--debug reproduce nothing", "reproduce --debug nothing", "reproduce nothing --debug"]
)
def test_debug_shows_the_traceback(command, line):
    result = command(*line.split())
    assert result.returncode == 2
    assert result.stderr.startswith("Traceback") and "configs.ConfigError" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("genmix: error: cannot reproduce")


# ---------------------------------------------------------------- what reaches the experiments
def test_train_asks_for_the_settings_of_the_preset_and_the_flags(experiments):
    options = "--preset debug --experts 8 --no-plots --plot_every 5 --out there --download"
    assert cli.main(f"train moe1991 {options}".split()) == 0
    [((config,), kw)] = experiments.asked
    assert config == replace(
        configs.preset("debug", "moe1991"), experts=8, plots=False, plot_every=5
    )
    assert kw == dict(out=Path("there"), download=True)


def test_waiting_threads_sleep_unless_told_otherwise(experiments, monkeypatch):
    for before, after in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if before:
            monkeypatch.setenv("OMP_WAIT_POLICY", before)
        assert cli.main(["train", "moe1991"]) == 0 and os.environ["OMP_WAIT_POLICY"] == after


@pytest.mark.parametrize("system", configs.SYSTEMS)
def test_every_preset_and_named_setting(experiments, system):
    for name in configs.preset_names(system):
        assert cli.main(["train", system, "--preset", name]) == 0
        assert experiments.asked.pop() == (
            (configs.preset(name, system),),
            dict(out=Path("runs"), download=False),
        )


def test_every_setting_has_a_flag_that_works(experiments):
    "Each field is given a value that is not its default, through its flag."
    other = {
        bool: lambda v: not v,
        int: lambda v: v + 1,
        float: lambda v: v / 2 or 0.25,
        str: lambda v: "formants",
        float | None: lambda v: 0.25,
        tuple[int, int]: lambda v: (v[0] + 2, v[1] + 1),
    }
    for system, cls in configs.SYSTEMS.items():
        for f in fields(cls):
            value = (
                other[f.type](f.default)
                if f.type in other
                else f.type.__args__[f.default == f.type.__args__[0]]
            )
            flag = f.name.rstrip("_").replace("_", "-")
            given = map(str, value) if isinstance(value, tuple) else [str(value)]
            words = (
                [f"--{flag}" if value else f"--no-{flag}"]
                if f.type is bool
                else [f"--{flag}", *given]
            )
            assert cli.main(["train", system, *words]) == 0
            expected = replace(cls(), **{f.name: value})
            assert expected != cls() and experiments.asked.pop()[0] == (expected,)


def test_config_round_trip(experiments, tmp_path):
    "A run's config.json gives its settings back; flags have the last word; reproduce repeats it."
    config = replace(configs.preset("earlier", "moe1991"), hidden=12)
    file = write_atomic(
        tmp_path / "run" / "config.json", json.dumps(configs.to_dict(config))
    )
    for path in (file, file.parent):
        assert cli.main(["train", "moe1991", "--config", str(path)]) == 0
        assert experiments.asked.pop()[0] == (config,)
    assert cli.main(["train", "moe1991", "--config", str(file), "--seed", "7", "--no-zscore"]) == 0
    assert experiments.asked.pop()[0] == (replace(config, seed=7, zscore=False),)
    assert cli.main(["reproduce", "--config", str(file)]) == 0
    assert experiments.asked.pop() == ((config,), dict(out=Path("reproduction"), download=False))
    assert cli.main(["reproduce", "--config", str(file), "--data", "formants"]) == 0
    assert experiments.asked.pop()[0] == (replace(config, data="formants"),)


def test_reproduce_asks_for_all_chapters_unless_told(experiments):
    usual = dict(preset="quick", out=Path("reproduction"), data="auto", download=False, cost=False)
    assert cli.main(["reproduce"]) == 0
    assert experiments.asked.pop() == (([],), usual)
    assert (
        cli.main("reproduce moe1991 --preset paper --data vowels --out o --download".split()) == 0
    )
    assert experiments.asked.pop() == (
        (["moe1991"],),
        dict(preset="paper", out=Path("o"), data="vowels", download=True, cost=False),
    )
    assert cli.main(["reproduce", "--preset", "paper", "--cost"]) == 0
    assert experiments.asked.pop()[1]["cost"] is True


# ---------------------------------------------------------------- what can go wrong inside
@pytest.mark.parametrize(
    "error, code, says",
    [
        (configs.ConfigError("a setting\ncannot work"), 2, "error: a setting cannot work"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "pb52.csv"),
            2,
            "pb52.csv: No such file or directory",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "runs"),
            2,
            "runs: Permission denied: choose",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a"),
            2,
            "runs/a: No space left on device: free some space",
        ),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            2,
            "No module named 'torch'",
        ),
        (MemoryError("Unable to allocate 8 TiB"), 2, "not enough memory: Unable to allocate 8 TiB"),
        (ModuleNotFoundError("No module named 'genmix.vae'", name="genmix.vae"), 1, "--debug"),
        (
            ZeroDivisionError("division by zero"),
            1,
            "ZeroDivisionError: division by zero (an error of genmix itself",
        ),
        (ValueError("shapes do not match"), 1, "ValueError: shapes do not match"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_a_line_and_a_code(experiments, capsys, error, code, says):
    experiments.error = error
    assert cli.main(["train", "moe1991"]) == code
    err = capsys.readouterr().err
    assert err.startswith("genmix: ") and says in err and err.count("\n") == 1
    assert cli.main(["train", "moe1991", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_data_errors_are_messages_too(experiments, capsys):
    from genmix.data import DataError

    experiments.error = DataError("pb52.csv, line 7: f1 is 'x'")
    assert cli.main(["train", "moe1991"]) == 2
    assert capsys.readouterr().err == "genmix: error: pb52.csv, line 7: f1 is 'x'\n"


def test_one_bad_data_set_does_not_hide_the_next(command):
    result = command("data", "check", "nothing", "formants")
    one_line_error(result, "no data set 'nothing'")
    assert result.stdout.count("\n") == 1 and all(
        word in result.stdout for word in ("ok", "formants", "SYNTHETIC")
    )


def test_data_list_and_check(command, tmp_path):
    result = command("data", "list", "--root", tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "vowels               not here: genmix data fetch vowels" in result.stdout
    assert "formants             always here (synthetic)" in result.stdout
    result = command("data", "check", "--root", tmp_path)
    assert result.returncode == 0 and "vowels: not here, not checked" in result.stdout
    one_line_error(command("data", "check", "vowels", "--root", tmp_path), "vowels not found")


def test_data_check_of_the_real_vowels(command, real_vowels, tmp_path):
    result = command("data", "check", "vowels", "--root", real_vowels.parent)
    assert result.returncode == 0 and "ok" in result.stdout and "vowels, official" in result.stdout
    (tmp_path / "pb52.csv").write_bytes(real_vowels.read_bytes()[:-20])  # cut short
    one_line_error(command("data", "check", "vowels", "--root", tmp_path), "pb52.csv")


# ---------------------------------------------------------------- terminals, pipes, interrupts
@posix
@pytest.mark.parametrize(
    "line", ["data list", "data check formants", "train moe1991 --help", "--help"]
)
@pytest.mark.parametrize("unbuffered, code", [("", 0), ("1", 141)])
def test_a_closed_pipe_ends_quietly(line, unbuffered, code, tmp_path):
    "Without PYTHONUNBUFFERED a short output leaves at the very end; with it, in the middle."
    read, write = os.pipe()
    os.close(read)  # nobody listens
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with os.fdopen(write, "w") as out:
        result = subprocess.run(
            [sys.executable, "-m", "genmix", *line.split()],
            cwd=tmp_path,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
    assert (result.returncode, result.stderr) == (code, "")


FAKE = """
import sys, time, types, genmix
from genmix.cli import main
fake = types.ModuleType("genmix.experiments")
genmix.experiments = sys.modules["genmix.experiments"] = fake
def train(config, out, download):
    print("started")
    {what}
    print("finished")
fake.train = train
sys.exit(main(["train", "moe1991"]))
"""


@posix
def test_a_pipe_that_closes_during_a_run(tmp_path):
    "The run ends as the shell's tools do, with 128 + SIGPIPE, not with 0: it was not done."
    code = FAKE.format(what="sys.stdin.read()")
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert run.stdout.readline() == "started\n"
    run.stdout.close()
    run.stdin.close()  # go on
    assert run.stderr.read() == ""
    run.stderr.close()
    assert run.wait(60) == 141


@posix
def test_interrupt(tmp_path):
    code = FAKE.format(what="time.sleep(600)")
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        preexec_fn=heed_sigint,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert run.stdout.readline() == "started\n"  # arrives at once although it goes to a pipe
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (130, "")
    assert err.startswith("genmix: interrupted") and err.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("line", ["data list", "--help", "data list --help"])
def test_output_to_a_full_disk(line, tmp_path):
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "genmix", *line.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
    assert result.returncode == 2
    assert re.fullmatch(r"genmix: error: No space left on device[^\n]*\n", result.stderr), (
        result.stderr
    )


def in_terminal(tmp_path, **env):
    "What `genmix data list --help` shows in a terminal."
    import pty

    ours, theirs = pty.openpty()
    env = {**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm", **env}
    subprocess.run(
        [sys.executable, "-m", "genmix", "data", "list", "--help"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
        cwd=tmp_path,
        check=True,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 1 << 16):
            shown += piece
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    return shown


@posix
def test_color_only_where_wanted(process, tmp_path):
    assert b"\x1b[" in in_terminal(tmp_path)
    assert b"\x1b[" not in in_terminal(tmp_path, NO_COLOR="1")
    assert "\x1b[" not in process("data", "list", "--help").stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_console_that_cannot_show_every_character(process, encoding, tmp_path):
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    folder = tmp_path / "Données Λ"
    folder.mkdir()
    for line in (
        ["train", "moe1991", "--help"],
        ["train", "moe1991", "--experts", "0"],
        ["data", "list", "--root", folder],
        ["data", "check", "Λ.csv"],
    ):
        result = process(*line, env=env)
        assert (
            result.returncode in (0, 2)
            and "Traceback" not in result.stderr
            and "codec" not in result.stderr
        )


# ---------------------------------------------------------------- real runs, in seconds
RUN = ("config.json", "history.csv", "result.json", "figures.npz")


def test_train_leaves_a_run_folder(command, process, tmp_path):
    result = process("train", "moe1991", "--preset", "debug", "--out", tmp_path / "out")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("data: formants, SYNTHETIC")
    config = configs.preset("debug", "moe1991")
    folder = tmp_path / "out" / "moe1991" / f"{configs.slug(config)}-{configs.config_hash(config)}"
    assert all((folder / name).is_file() for name in RUN), sorted(folder.iterdir())
    assert any((folder / "figures").iterdir())
    assert configs.load_config(folder) == config
    assert json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert not list(tmp_path.rglob(".part-*"))

    again = command("reproduce", "--config", folder / "config.json", "--out", tmp_path / "again")
    assert (again.returncode, again.stderr) == (0, "")
    assert (tmp_path / "again" / "moe1991" / folder.name / "history.csv").read_bytes() == (
        folder / "history.csv"
    ).read_bytes()


def test_train_without_plots(command, tmp_path):
    result = command(
        "train", "moe1991", "--preset", "debug", "--system", "bp", "--no-plots", "--out", "out"
    )
    assert (result.returncode, result.stderr) == (0, "")
    [folder] = (tmp_path / "out" / "moe1991").iterdir()
    assert (folder / "result.json").is_file() and not list(folder.rglob("*.png"))


def test_reproduce_names_what_it_made(command, tmp_path):
    out = tmp_path / "out"
    result = command("reproduce", "moe1991", "--preset", "debug", "--out", out)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.match(
        "moe1991 +data: (formants, SYNTHETIC|vowels, official|vowels, user)", result.stdout
    )
    end = "\n".join(result.stdout.splitlines()[-10:])
    assert all(word in end.lower() for word in ("report", "table", "figure")), end
    named = [
        Path(text.rstrip(".,;:)"))
        for text in re.findall(re.escape(str(out)) + r"\S*", result.stdout)
    ]
    assert len(named) >= 3 and all(path.exists() for path in named), named


@pytest.mark.parametrize("words", [("train", "moe1991"), ("reproduce",), ("reproduce", "moe1991")])
def test_bad_places_get_one_line(command, process, tmp_path, words):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "bad.csv").write_text("type,sex\n")
    one_line_error(process(*words, "--preset", "debug", "--out", "file"), "file")
    one_line_error(command(*words, "--preset", "debug", "--data", "missing.csv"), "missing.csv")
    one_line_error(command(*words, "--preset", "debug", "--data", "bad.csv"), "bad.csv, line 1")
    one_line_error(
        command(
            *words, "--preset", "debug", "--data", "vowels", env={"GENMIX_DATA": str(tmp_path)}
        ),
        "genmix data fetch vowels",
    )


@posix
def test_interrupting_a_real_run(tmp_path):
    line = "train moe1991 --preset debug --epochs 100000000 --target-mse 1e-12 --no-plots --out out"
    run = subprocess.Popen(
        [sys.executable, "-m", "genmix", *line.split()],
        preexec_fn=heed_sigint,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert run.stdout.readline().startswith("data: formants, SYNTHETIC")
    time.sleep(1)  # somewhere in the middle
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert (
        run.returncode == 130 and err.startswith("genmix: interrupted") and "Traceback" not in err
    )
    assert not list(tmp_path.rglob("result.json")) and not list(tmp_path.rglob(".part-*"))


# ----------------------------- models of images: real runs, killed, interrupted, with two processes
IMAGE_RUN = ("config.json", "history.csv", "result.json", "figures.npz", "model.safetensors")
SMALL = "--preset debug --samples 5 --no-plots".split()


def the_run(out, system):
    [folder] = (out / system).iterdir()
    return folder


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("train vae --preset debug", marks=pytest.mark.slow),
        pytest.param("train latent-opt --preset debug --method map", marks=pytest.mark.slow),
        "train classifier --preset debug",
    ],
)
def test_training_on_images_leaves_a_run_folder(command, process, tmp_path, line):
    result = process(*line.split(), "--out", tmp_path / "out")
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        result.stdout.startswith("data: digits train, bundled")
        and "epoch 1: loss " in result.stdout
    )
    folder = the_run(tmp_path / "out", line.split()[1])
    assert all((folder / name).stat().st_size for name in IMAGE_RUN), sorted(folder.iterdir())
    drawn = {p.name for p in (folder / "figures").iterdir()}
    assert "curves.png" in drawn
    if "classifier" not in line:
        assert {
            "reconstructions-epoch-0001.png",
            "samples-epoch-0001.png",
            "reconstructions-epoch-0002.png",
        } <= drawn
    made = json.loads((folder / "result.json").read_text(encoding="utf-8"))["provenance"]
    assert (
        made["data"].startswith("data: digits train") and made["steps"] == 4 and made["seed"] == 0
    )
    assert {"fingerprint", "device", "threads", "torch", "command", "shape"} <= set(made)
    assert made["command"] == "genmix " + " ".join([*line.split(), "--out", str(tmp_path / "out")])

    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    again = command(*line.split(), "--out", tmp_path / "out")
    assert (
        again.returncode == 0
        and "complete already" in again.stdout
        and "epoch 1:" not in again.stdout
    )
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before

    figures = command("figures", "--run", folder, "--out", "figs")
    assert (figures.returncode, figures.stderr) == (0, "")
    assert {Path(p).name for p in figures.stdout.split()} >= {f"{line.split()[1]}-curves.png"}


@pytest.mark.parametrize(
    "line, says",
    [
        ("train vae --data vowels", "vae needs images, such as digits"),
        ("train vae --data formants", "needs images"),
        ("train vae --data auto", "needs images"),
        ("train classifier --data my.csv", "classifier needs images"),
        ("train vae --data nothing", "there is no data set 'nothing'"),
        ("train vae --data digits --n 100000", "digits train has 1,438 images"),
        ("train vae --preset debug --device cuda:77", "device is 'cuda:77'"),
        ("reproduce moe1991 --data mnist", "moe1991 cannot use --data mnist"),
        ("reproduce latent-opt --data formants", "latent-opt cannot use --data formants"),
        ("reproduce smoe-vae --data formants", "smoe-vae cannot use --data formants"),
        ("sweep nothing seed=0,1", "there is no system 'nothing'; there is moe1991"),
        ("sweep smoe-vae seed", "'seed' says no values; write for instance seed=0,1,2"),
        ("sweep smoe-vae experts=1,2", "smoe-vae has no setting 'experts'; it has"),
        ("sweep smoe-vae num_experts=1,x", "num_experts cannot be 'x'; it is a whole number"),
        ("sweep smoe-vae num_experts=0,1", "num_experts must be at least 1"),
        ("sweep smoe-vae seed=1,1", "a value is given twice"),
        ("sweep beta-vae lambda=-1", "lambda must be a finite number, 0 or above"),
        ("train beta-vae --data digits --n 100", "beta-vae needs images of 64x64 pixels"),
        (
            "reproduce beta-vae --data mnist",
            "beta-vae cannot use --data mnist; it needs images of 64x64",
        ),
        ("metrics nothing.npz", "nothing.npz: no such file; expected a .npz file with codes"),
        ("sweep smoe-vae seed=1 --workers -1", "--workers is -1"),
        ("train smoe-vae --n 60 --fraction 0.001", "of 60 training images that leaves none"),
    ],
)
def test_data_and_settings_that_cannot_be_used(command, tmp_path, line, says):
    one_line_error(command(*line.split()), says)
    assert not list(tmp_path.rglob("*.json"))


def start(tmp_path, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "genmix", *map(str, words)],
        preexec_fn=heed_sigint,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )


def weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.slow
@posix
def test_ctrl_c_keeps_the_step_and_a_kill_the_last_checkpoint(command, tmp_path):
    "Interrupted, then killed, then finished: the weights are those of a run that nobody disturbed."
    words = ["train", "classifier", "--preset", "debug", "--epochs", "40", "--no-plots"]
    run = start(tmp_path, *words, "--out", "out")
    while not run.stdout.readline().startswith("epoch 2"):
        pass
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and re.fullmatch(
        r"genmix: interrupted; step \d+ is kept, and the same command goes on from there\n", err
    ), err
    folder = the_run(tmp_path / "out", "classifier")
    assert not (folder / "result.json").exists()
    kept = max(int(p.name[5:14]) for p in (folder / "checkpoints").glob("step-*.pt"))
    assert 4 <= kept < 80

    run = start(tmp_path, *words, "--out", "out")
    line = run.stdout.readline()
    while not line.startswith("epoch"):
        line = run.stdout.readline()
    assert int(line.split()[1].rstrip(":")) >= kept // 2  # it did not start again
    run.kill()
    run.communicate()
    assert not (folder / "result.json").exists()

    assert command(*words, "--out", "out").returncode == 0
    assert command(*words, "--out", "whole").returncode == 0
    ours, whole = weights(folder), weights(the_run(tmp_path / "whole", "classifier"))
    assert ours.keys() == whole.keys() and all((ours[k] == whole[k]).all() for k in ours)


@posix
def test_a_second_command_for_the_same_run_is_refused(command, tmp_path):
    words = [
        "train",
        "classifier",
        "--preset",
        "debug",
        "--epochs",
        "1000000",
        "--no-plots",
        "--out",
        "out",
    ]
    run = start(tmp_path, *words)
    try:
        while not run.stdout.readline().startswith("epoch 1"):
            pass
        one_line_error(command(*words), "another process is writing into this run's folder")
    finally:
        run.kill()
        run.communicate()


@pytest.mark.slow
@posix
def test_two_processes_train_one_run(tmp_path):
    "torchrun: one of the two prints and writes; the result is that of one process up to rounding."
    words = ["-m", "genmix", "train", "vae", *SMALL, "--out"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--master-port",
            "29613",
            *words,
            "two",
        ],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("data: digits") == 1
        and done.stdout.count("epoch 1:") == 1
        and done.stdout.count("wrote ") == 1
    )
    assert (
        subprocess.run(
            [sys.executable, *words, "one"], cwd=tmp_path, env=env, capture_output=True
        ).returncode
        == 0
    )
    two, one = (
        json.loads((the_run(tmp_path / name, "vae") / "result.json").read_text())["metrics"]
        for name in ("two", "one")
    )
    for k, v in one.items():
        if isinstance(v, float) and "seconds" not in k:
            assert two[k] == pytest.approx(v, rel=2e-3, abs=2e-2), k


@pytest.mark.slow
def test_reproduce_latent_opt(command, tmp_path):
    result = command(
        "reproduce", "latent-opt", "--preset", "debug", "--data", "doodles", "--out", "out"
    )
    assert (result.returncode, result.stderr) == (0, "")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert (
        "Amortized inference and latent optimization" in text
        and "SYNTHETIC" in text
        and "classifier" in text
    )
    links = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert len(links) > 5 and all((tmp_path / "out" / link).is_file() for link in links)
    assert (tmp_path / "out" / "tables" / "latent-opt.csv").read_text().count("\n") == 5


def test_sweep_trains_every_combination_once(command, process, tmp_path):
    line = (
        "sweep",
        "smoe-vae",
        "n=60",
        "steps=2",
        "num_experts=1,2",
        "seed=0,1",
        "plots=no",
        "--out",
        "all",
    )
    result = process(*line)
    assert (result.returncode, result.stderr) == (0, "")
    assert "4 runs of smoe-vae" in result.stdout and "SYNTHETIC" in result.stdout
    (path,) = (tmp_path / "all" / "sweeps").glob("*.csv")
    assert str(path.relative_to(tmp_path)) in result.stdout and path.read_text().count("\n") == 5
    made = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")}
    assert len(made) == 4 and command(*line).returncode == 0
    assert made == {
        p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")
    }  # nothing is trained again
    before = path.read_bytes()
    assert (
        command(
            "sweep",
            "smoe-vae",
            "n=60",
            "steps=2",
            "num_experts=1,2",
            "seed=0",
            "plots=no",
            "--out",
            "all",
        ).returncode
        == 0
    )
    assert (
        path.read_bytes() == before and len(list((tmp_path / "all" / "sweeps").glob("*.csv"))) == 2
    )  # another sweep has a table of its own


@pytest.mark.slow
def test_reproduce_smoe_vae(command, tmp_path):
    result = command("reproduce", "smoe-vae", "--preset", "debug", "--out", "out")
    assert (result.returncode, result.stderr) == (0, "")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert (
        "A mixture of decoder experts" in text
        and "SYNTHETIC" in text
        and "K chosen on validation images" in text
    )
    links = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert len(links) > 12 and all((tmp_path / "out" / link).is_file() for link in links)
    assert (tmp_path / "out" / "tables" / "smoe-vae-runs.csv").read_text().count("\n") == 13


@pytest.mark.slow
def test_reproduce_beta_vae(command, tmp_path):
    result = command("reproduce", "beta-vae", "--preset", "debug", "--out", "out")
    assert (result.returncode, result.stderr) == (0, "")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert (
        "β-VAE and λβ-VAE" in text
        and "REBUILT" in text
        and "from β = 1 to β = 4 the code's KL" in text
    )
    links = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert (
        len(links) > 15
        and all((tmp_path / "out" / link).is_file() for link in links)
        and any(link.endswith(".gif") for link in links)
    )
    assert (tmp_path / "out" / "tables" / "beta-vae-runs.csv").read_text().count("\n") == 5
    assert (tmp_path / "out" / "tables" / "beta-vae-theory.csv").read_text().count("\n") == 10


def test_metrics_of_own_codes(command, tmp_path):
    import numpy as np

    factors = np.stack(np.unravel_index(np.arange(400) % 20, (4, 5)), 1)
    np.savez(
        tmp_path / "codes.npz",
        codes=factors[:, ::-1] + 0.0,
        factors=factors,
        factor_names=np.array(["shape", "hue"]),
    )
    result = command("metrics", "codes.npz", "--out", "scores.csv")
    assert (result.returncode, result.stderr) == (0, "")
    assert "400 codes of 2 variables, 2 factors: shape, hue" in result.stdout
    scores = dict(
        line.split(",")[:2] for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]
    )
    assert float(scores["mig"]) == pytest.approx(1) and float(scores["im_share"]) == pytest.approx(
        1
    )
    np.savez(tmp_path / "short.npz", codes=factors[:50], factors=factors)
    result = command("metrics", "short.npz")
    assert result.returncode == 2 and "50 rows of codes, but 400 of factors" in result.stderr
    one_line_error(
        command("metrics", "codes.npz", "--seed", "-1"),
        "seed is -1; expected a whole number, 0 or above",
    )


def test_notes_come_without_places_in_the_code(command, tmp_path):
    """A warning of ours is a line for users.

    Metrics that compare factors are left out where only one varies, in whatever order they are
    asked for.
    """
    import numpy as np

    z = np.random.default_rng(0).normal(size=(200, 2))
    np.savez(
        tmp_path / "one.npz", codes=z, factors=np.stack([np.arange(200) % 4, np.zeros(200, int)], 1)
    )
    for words in ((), ("--metrics", "sap", "mig", "modularity", "im")):
        result = command("metrics", "one.npz", *words)
        assert (
            result.returncode == 0 and "modularity" not in result.stdout and "mig" in result.stdout
        )
        assert (
            all(line.startswith("genmix: note: ") for line in result.stderr.splitlines())
            and "only factor 0 varies" in result.stderr
        )
