"""Training that is killed again and again ends with the same bits as training that is left alone.

The driver below imports PyTorch once and forks a child for every attempt; children are killed by
SIGKILL, from outside at random moments, or by themselves at chosen moments inside the writing of a
checkpoint.
"""

import json
import os
import sys

import pytest

DRIVER = """
import json, os, random, signal, sys, time
from dataclasses import replace
import numpy as np, torch
torch.set_num_threads(1)
from torch import nn
from torch.nn import functional as F
from genmix import configs, data, saving, training

where, seed = sys.argv[1], int(sys.argv[2])
digits = data.load("digits", "train", n=90, seed=1)
held = data.load("digits", "test", n=20)
c = configs.FitConfig(  # 6 steps an epoch, the last of 10
    steps=240, batch=16, lr_schedule="cosine", lr_warmup=10, clip=30., ema=.98, device="cpu",
    seed=3)


class Everything(nn.Module):
    "Dropout, noise, an average, and a table with sparse gradients and an optimizer of its own."
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.table, self.encoder = nn.Embedding(90, 4, sparse=True), nn.Linear(784, 4)
            hidden = nn.Linear(4, 32), nn.ReLU(), nn.Dropout(.3)
            self.decoder = nn.Sequential(*hidden, nn.Linear(32, 784))
    def optimizers(self, config):
        dense = [*self.encoder.parameters(), *self.decoder.parameters()]
        sparse = torch.optim.SparseAdam([self.table.weight], .05)
        return [torch.optim.Adam(dense, config.lr), sparse]
    def loss(self, batch, step, rng):
        x = batch.x.flatten(1)
        z = self.encoder(x) + rng.normal(len(x), 4)
        if self.training: z = z + self.table(batch.i)
        recon = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none")
        recon = recon.sum(1).mean()
        return dict(loss=recon + .5 * (z**2).sum(1).mean(), recon=recon)


def train(folder):
    model = Everything()
    history = training.fit(model, digits, c, val=held, folder=folder, save_every=0, progress=False)
    return model.state_dict(), history.drop(columns="seconds").to_dict("list")


def die(*_): os.kill(os.getpid(), signal.SIGKILL)


def aim(moment, call):
    "Die at a moment inside the writing of the checkpoint number `call` from now."
    calls = [0]
    def wrapped(f, before):
        def g(*a, **k):
            calls[0] += 1
            if before and calls[0] == call: die()
            out = f(*a, **k)
            if calls[0] == call: die()
            return out
        return g
    if moment == "before rename": saving.os.replace = wrapped(os.replace, True)
    if moment == "after rename": saving.os.replace = wrapped(os.replace, False)
    if moment == "before fsync": saving.os.fsync = wrapped(os.fsync, True)
    if moment == "inside bytes":
        def half(path, mode):
            f, write = open(path, mode), None
            calls[0] += 1
            if calls[0] != call: return f
            class Half:
                def __enter__(self): return self
                def __exit__(self, *e): f.close()
                def write(self, b): f.write(b[:len(b) // 2]); f.flush(); die()
            return Half()
        saving.open = half


def attempt(folder, moment=None, call=0, delay=None):
    "One child: killed, or done. Returns its exit status."
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if moment: aim(moment, call)
            torch.save(train(folder), where + "/killed.pt")
            status = 0
        except BaseException as e: print(repr(e), file=sys.stderr, flush=True)
        finally: os._exit(status)
    if delay is not None:
        time.sleep(delay); os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


alone = train(None)                                          # no checkpoints at all
rng, folder, kills, steps, parts = random.Random(seed), where + "/checkpoints", 0, [], 0
begin = time.time(); train(where + "/timing"); whole = time.time() - begin
moments = ["before rename", "after rename", "before fsync", "inside bytes"] * 2
while kills < 20:
    if kills % 5 in (1, 3) and moments: status = attempt(folder, moments.pop(), rng.randint(1, 14))
    else: status = attempt(folder, delay=rng.uniform(.3, 1.) * whole / 16)
    if status == 0: break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    kills += 1
    found = training.load_checkpoint(folder)
    steps.append(found["step"] if found else 0)
    if os.path.isdir(folder):
        parts += any(name.startswith(".part-") for name in os.listdir(folder))
assert attempt(folder) == 0
killed = torch.load(where + "/killed.pt", weights_only=True)
same = alone[0].keys() == killed[0].keys()
same = same and all(torch.equal(a, b) for a, b in zip(alone[0].values(), killed[0].values()))
leftover = [name for name in os.listdir(folder) if name.startswith(".")]
print(json.dumps(dict(
    kills=kills, steps=steps, parts=parts, weights=same, history=alone[1] == killed[1],
    leftover=leftover, unused=len(moments))))
"""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork a process")


@forks
@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_twenty_kills_change_no_bit(python, tmp_path, seed):
    done = python("-c", DRIVER, tmp_path, seed, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["weights"] and said["history"], said
    assert said["kills"] == 20 and said["unused"] == 0, said
    assert said["steps"] == sorted(said["steps"]) and len(set(said["steps"])) >= 8, (
        said
    )  # it went on every time, and nothing was lost
    assert any(s % 6 for s in said["steps"]), said  # in the middle of epochs too
    assert said["parts"] and not said["leftover"], said  # killed while writing, and swept up later


LIMITED = """
import os, resource, signal, sys
import torch
torch.set_num_threads(1)
from genmix import configs, data, training, vae
d = data.load("digits", "train", n=50)
c = configs.VAEConfig(steps=8, batch=25, width=8, latent=4, device="cpu")
def model(): return vae.vae_of(c, d.x.shape[1:])
folder, size = sys.argv[1], int(sys.argv[2])
from dataclasses import replace
training.fit(model(), d, replace(c, steps=4), folder=folder, save_every=0, progress=False)
good = sorted(os.listdir(folder))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))  # no file beyond this
try: training.fit(model(), d, c, folder=folder, save_every=0, progress=False)
except training.TrainingError as e: print(e)
else: sys.exit("nothing was said")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert sorted(os.listdir(folder)) == good, (good, os.listdir(folder))
h = training.fit(model(), d, c, folder=folder, save_every=0, progress=False)
assert list(h.step) == [2, 4, 6, 8], h
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("size", [0, 20_000])
def test_a_disk_that_takes_no_more_stops_with_one_line_and_loses_nothing(python, tmp_path, size):
    done = python("-c", LIMITED, tmp_path / "checkpoints", size, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1 and "checkpoint" in lines[0] and "step-000000004" in lines[0], (
        done.stdout
    )
