"""Two processes that share every batch reach what one process reaches.

Only the first writes; an error in one stops all.
"""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32",
    reason="needs torch.distributed with gloo",
)

WORKER = """
import json, os, sys
from dataclasses import replace
import torch
torch.set_num_threads(1)
from torch import nn
from genmix import configs, data, training, vae
where, what, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
rank = int(os.environ.get("RANK", 0))
d, held = data.load("digits", "train", n=61), data.load("digits", "test", n=30)
# 5 steps an epoch: 15, 15, 15, 15 and 1 row
base = configs.VAEConfig(
    n=61, batch=15, steps=steps, width=8, latent=4, device="cpu", ema=.9, clip=50.)


class Table(nn.Module):  # processes start from different weights on purpose
    "A table of latents, with sparse gradients and its own optimizer."
    def __init__(self):
        super().__init__()
        torch.manual_seed(rank)
        self.table, self.decoder = nn.Embedding(61, 8, sparse=True), nn.Linear(4, 784)
    def optimizers(self, config):
        dense = torch.optim.Adam(self.decoder.parameters(), config.lr)
        return [dense, torch.optim.SparseAdam([self.table.weight], .05)]
    def loss(self, batch, step, rng):
        mu, logvar = self.table(batch.i).chunk(2, 1)
        z = mu + (.5 * logvar).exp() * rng.normal(*mu.shape)
        recon = nn.functional.binary_cross_entropy_with_logits(
            self.decoder(z), batch.x.flatten(1), reduction="none").sum(1).mean()
        return dict(loss=recon + vae.kl_normal(mu, logvar).sum(1).mean(), recon=recon)


class Breaks(nn.Module):
    "Its loss is not a number on the last process in step 3."
    def __init__(self): super().__init__(); self.w = nn.Parameter(torch.zeros(1))
    def loss(self, batch, step, rng):
        last = int(os.environ.get("WORLD_SIZE", 1)) - 1
        return dict(loss=self.w.sum() * (float("nan") if step == 3 and rank == last else 1.))


models = {"vae": lambda: vae.vae_of(base, d.x.shape[1:]), "table": Table, "breaks": Breaks}
for name in what.split(","):
    model, seen = models[name](), []
    folder = f"{where}/{name}"
    try:
        h = training.fit(
            model, d, base, val=held if name == "vae" else None, folder=folder, save_every=0,
            progress=False, on_epoch=lambda e, m, h: seen.append(e))
    except training.TrainingError as e:
        with open(f"{where}/{name}-{rank}.txt", "w") as f: f.write(str(e))
        continue
    history = h.drop(columns="seconds").to_dict("list")
    found = dict(model=model.state_dict(), history=history, seen=seen)
    torch.save(found, f"{where}/{name}-{rank}.pt")
"""


def start(processes, where, what, steps=12):
    "Run the worker alone, or in several processes; return once all have ended."
    where.mkdir(exist_ok=True)
    script = where / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    line = [sys.executable]
    if processes > 1:
        line += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(
        [*line, str(script), str(where), what, str(steps)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def read(where, name, rank=0):
    return torch.load(where / f"{name}-{rank}.pt", weights_only=True)


def assert_close(a, b, rtol):
    for k in a["model"]:
        torch.testing.assert_close(
            a["model"][k], b["model"][k], rtol=rtol, atol=rtol, msg=lambda m, k=k: f"{k}: {m}"
        )
    assert a["history"].keys() == b["history"].keys()
    for k in a["history"]:
        torch.testing.assert_close(
            torch.tensor(a["history"][k]), torch.tensor(b["history"][k]), rtol=rtol, atol=rtol
        )


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    where = tmp_path_factory.mktemp("one")
    start(1, where, "vae,table")
    return where


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    where = tmp_path_factory.mktemp("two")
    start(2, where, "vae,table,breaks")
    return where


@pytest.mark.parametrize("name", ["vae", "table"])
def test_two_processes_agree_with_one(one, two, name):
    assert_close(read(one, name), read(two, name), 2e-5)


@pytest.mark.parametrize("name", ["vae", "table"])
def test_all_processes_hold_the_same_weights(two, name):
    a, b = read(two, name, 0), read(two, name, 1)
    assert all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])
    assert a["history"] == b["history"]


def test_training_moved_the_weights_at_all(one, tmp_path):
    start(1, tmp_path, "vae", steps=1)
    with pytest.raises(AssertionError):
        assert_close(read(one, "vae"), read(tmp_path, "vae"), 1e-2)


def test_only_the_first_process_writes_and_is_called_back(two):
    assert read(two, "vae", 0)["seen"] == [1, 2, 3] and read(two, "vae", 1)["seen"] == []
    files = sorted(p.name for p in (two / "vae").iterdir())
    assert [f[:14] for f in files] == ["step-000000011", "step-000000012"], files


def test_a_loss_that_breaks_in_one_process_stops_all_with_the_same_line(two):
    said = [(two / f"breaks-{rank}.txt").read_text() for rank in (0, 1)]
    assert (
        said[0] == said[1]
        and said[0].startswith("step 3: loss is nan")
        and "step-000000003" in said[0]
    ), said


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(2, 1), (1, 2), (3, 2)])
def test_a_run_goes_on_with_another_number_of_processes(one, tmp_path, before, after):
    start(before, tmp_path, "vae,table", steps=7)  # in the middle of the second epoch
    start(after, tmp_path, "vae,table", steps=12)
    for name in ("vae", "table"):
        assert_close(read(one, name), read(tmp_path, name), 5e-5)


@pytest.mark.slow
def test_three_processes_and_a_batch_with_one_row(one, tmp_path):
    start(3, tmp_path, "vae,table")  # in every fifth step two of the three have no row
    for name in ("vae", "table"):
        assert_close(read(one, name), read(tmp_path, name), 5e-5)


@pytest.mark.slow
def test_a_process_that_dies_takes_the_others_with_it(tmp_path):
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, sys\n"
        + WORKER.replace(
            "def loss(self, batch, step, rng):\n        last",
            "def loss(self, batch, step, rng):\n"
            "        if step == 3 and rank == 1: os._exit(7)\n"
            "        last",
        ),
        encoding="utf-8",
    )
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
        str(tmp_path),
        "breaks",
        "12",
    ]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert (
        json.dumps(sorted(p.name[:14] for p in (tmp_path / "breaks").glob("*.pt")))
        == '["step-000000002", "step-000000003"]'
    )

@pytest.mark.slow
def test_a_second_phase_waits_for_the_weights_of_the_first(tmp_path):
    "Only one process writes the first phase's weights; both read them."
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "genmix", "train", "beta-vae", "--preset", "debug", "--no-plots"]
    command = [sys.executable, *launch, *words, "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(tmp_path.glob("runs/beta-vae/*/result.json"))) == 2
