"""The engine, in one process: the same bits as a plain loop, after an interruption, from disk.

And an answer to everything that goes wrong.
"""

import errno
import io
import math
import os
import signal
import threading
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from genmix import configs, data, training
from genmix.readers import cache
from genmix.configs import ConfigError, FitConfig
from genmix.training import TrainingError, checkpoints, fit, load_checkpoint

torch.set_num_threads(1)
C = FitConfig(epochs=3, batch=32, lr=3e-3, device="cpu")
PER = 4  # steps in an epoch of the 100 images
X = np.random.default_rng(0).integers(0, 256, (100, 1, 6, 6), dtype=np.uint8)


def images(x=X, **other):
    x = x if isinstance(x, cache.Images) else np.array(x)
    found = dict(
        y=np.arange(len(x)) % 3,
        classes=("a", "b", "c"),
        name="squares",
        origin="synthetic",
        source="a test",
    )
    return data.ImageData(x=x, **(found | other))


D, V = images(), images(X[:30])


class Tiny(nn.Module):
    "Noise from rng, dropout from the global generator, three named terms."

    def __init__(self, seed=0, H=8):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(
                nn.Flatten(), nn.Linear(36, H), nn.SiLU(), nn.Dropout(0.2), nn.Linear(H, 6)
            )
            self.decoder = nn.Linear(3, 36)

    def loss(self, batch, step, rng):
        mu, logvar = self.encoder(batch.x).chunk(2, 1)
        out = self.decoder(mu + (0.5 * logvar).exp() * rng.normal(*mu.shape))
        recon = ((out - batch.x.flatten(1)) ** 2).sum(1).mean()
        kl = 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(1).mean()
        return dict(loss=recon + 0.1 * kl, recon=recon, kl=kl)


class Table(nn.Module):
    "Free latents of every image, with sparse gradients and optimizers of their own."

    def __init__(self, n=100):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.table, self.decoder = nn.Embedding(n, 3, sparse=True), nn.Linear(3, 36)

    def optimizers(self, config):
        return [
            torch.optim.Adam(self.decoder.parameters(), config.lr),
            torch.optim.SparseAdam([self.table.weight], 10 * config.lr),
        ]

    def loss(self, batch, step, rng):
        z = self.table(batch.i)
        return dict(
            loss=((self.decoder(z) - batch.x.flatten(1)) ** 2).sum(1).mean() + (z**2).sum(1).mean()
        )


def run(model=None, d=D, c=C, **other):
    model = model or Tiny()
    return model, fit(model, d, c, progress=False, **other)


def same(a, b):
    return all(
        torch.equal(v, w)
        for v, w in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def plain(h):
    return h.drop(columns="seconds")


class Plug(Exception):
    pass


def plug_at(step, model):
    "Make `model` pull the plug when its loss is asked for `step`."
    whole = model.loss

    def loss(batch, at, rng):
        if at == step and model.training:
            raise Plug
        return whole(batch, at, rng)

    model.loss = loss
    return model


# ---------------------------------------------------------------- random numbers
def test_seeds_depend_on_all_numbers_and_their_order():
    seeds = {
        training.seed_of(*k)
        for k in [
            (0, 0, 0),
            (1, 0, 0),
            (0, 1, 0),
            (0, 0, 1),
            (1, 2, 3),
            (2, 1, 3),
            (2, 3, 1),
            (2, 3, 1, 1),
        ]
    }
    assert len(seeds) == 8 and all(0 <= s < 2**63 for s in seeds)
    assert training.seed_of(0, 1) == training.seed_of(
        0, 1, 0
    )  # zeros at the end do not count: chapter 02a says so
    assert training.seed_of(0, 0, 0) == 7896617691693857887  # the streams of published runs


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_shares_of_noise_are_the_noise_of_the_whole(dim):
    shape = [4, 4, 4]
    for kind in ("normal", "uniform"):
        whole = getattr(training.Noise(3, 0, 9), kind)(*shape, dim=dim)
        parts = []
        for a, b in ((0, 1), (1, 1), (1, 4)):
            part = list(shape)
            part[dim] = b - a
            parts.append(
                getattr(training.Noise(3, 0, 9, rows=(a, b), total=4), kind)(*part, dim=dim)
            )
        assert torch.equal(torch.cat(parts, dim), whole)
    assert (whole >= 0).all() and (whole < 1).all()


def test_the_callers_random_numbers_are_untouched():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    run(val=V)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(Plug):
        run(plug_at(5, Tiny()))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_callers_random_numbers_do_not_matter():
    torch.manual_seed(1)
    a, _ = run()
    torch.manual_seed(2)
    b, _ = run()
    assert same(a, b)
    assert not same(a, run(c=replace(C, seed=1))[0])


# ---------------------------------------------------------------- the loop
def test_the_same_bits_as_a_plain_loop():
    model, step = Tiny(), 0
    opt = torch.optim.Adam(model.parameters(), C.lr, fused=True)
    with torch.random.fork_rng(devices=[]):
        for epoch in range(C.epochs):
            order = torch.randperm(
                100, generator=torch.Generator().manual_seed(training.seed_of(0, 1, epoch))
            )
            for rows in order.split(C.batch):
                torch.manual_seed(training.seed_of(0, 2, step, 0))
                b = training.Batch(torch.from_numpy(X)[rows].float() / 255, None, rows)
                opt.zero_grad()
                model.loss(b, step, training.Noise(0, 0, step))["loss"].backward()
                opt.step()
                step += 1
    assert same(run()[0], model)


def test_fused_adam_is_adam():
    a, b = Tiny(), Tiny()
    opts = [
        training.adam(a.parameters(), 0.01),
        torch.optim.Adam(b.parameters(), 0.01, fused=False),
    ]
    assert opts[0].defaults["fused"] is True and opts[0].defaults["lr"] == 0.01
    for _ in range(20):
        for m, o in zip((a, b), opts):
            o.zero_grad()
            sum((p**3).sum() for p in m.parameters()).backward()
            o.step()
    for p, q in zip(a.parameters(), b.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


FAULTS = """
import resource, sys, torch
from genmix import training
torch.set_num_threads(1)
def faults(n=30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n): a = torch.ones(700, 1000); b = a + 1; del a, b
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / n
faults(); usual = faults(); kept = training.keep_memory(); faults()
# the least: the system takes pages back when it is short
print(int(kept), usual, min(faults() for _ in range(5)))
"""


def test_memory_is_kept_for_the_next_step(python):
    pytest.importorskip("resource")
    small = {
        f"MALLOC_{name}_THRESHOLD_": "131072" for name in ("TRIM", "MMAP")
    }  # what glibc starts with; it may raise them by itself
    kept, usual, after = map(float, python("-c", FAULTS, env=small).stdout.split())
    if not kept:
        pytest.skip("not the GNU C library")
    assert after < usual / 10, (usual, after)


def test_memory_elsewhere(monkeypatch):
    def missing(name):
        raise OSError("no such library")

    monkeypatch.setattr(training.ctypes, "CDLL", missing)
    assert training.keep_memory() is False
    monkeypatch.setattr(training.ctypes, "CDLL", lambda name: object())  # a library without mallopt
    assert training.keep_memory() is False


def test_history_is_weighted_by_rows():
    seen = []

    class Watch(Tiny):
        def loss(self, batch, step, rng):
            terms = super().loss(batch, step, rng)
            seen.append((len(batch.x), terms["kl"].item()))
            return terms

    _, h = run(Watch())
    assert [n for n, _ in seen[:PER]] == [32, 32, 32, 4]
    assert list(h) == ["epoch", "step", "seconds", "loss", "recon", "kl"]
    assert (
        h.epoch.tolist() == [1, 2, 3]
        and h.step.tolist() == [4, 8, 12]
        and h.seconds.is_monotonic_increasing
    )
    for e in range(3):
        assert h.kl[e] == pytest.approx(
            sum(n * v for n, v in seen[4 * e : 4 * e + 4]) / 100, rel=1e-12
        )


def test_a_batch_larger_than_the_data_and_a_last_epoch_cut_short():
    _, h = run(c=replace(C, batch=1000))
    assert h.step.tolist() == [1, 2, 3]
    _, h = run(c=replace(C, steps=6))
    assert h.step.tolist() == [4, 6] and h.epoch.tolist() == [1, 2]


def test_the_model_comes_back_in_eval_mode_with_its_averages():
    kept = []

    class Watch(Tiny):
        def loss(self, batch, step, rng):
            if step:
                kept.append(self.decoder.weight.detach().clone())
            assert self.training
            return super().loss(batch, step, rng)

    model = Watch()
    raw, _ = run()
    fit(model, D, replace(C, ema=0.9), progress=False)
    assert not model.training and not raw.training
    path = [*kept, raw.decoder.weight.detach()]  # averages do not change what is trained
    assert all(not torch.equal(a, b) for a, b in zip(path, path[1:], strict=False))
    mean = torch.zeros_like(path[0])
    for t, w in enumerate(path, 1):
        mean = mean + max(0.1, 1 / t) * (w - mean)
    assert torch.allclose(model.decoder.weight, mean, atol=1e-6) and not torch.allclose(
        raw.decoder.weight, mean, atol=1e-4
    )


def test_on_epoch_sees_the_averages_in_eval_mode_and_training_goes_on_without_them():
    seen = []

    def look(epoch, model, history):
        seen.append((epoch, len(history), model.training, model.decoder.weight.detach().clone()))
        torch.rand(1000)  # disturbs nothing

    model, h = run(c=replace(C, ema=0.9), val=V, on_epoch=look)
    assert [s[:3] for s in seen] == [(1, 1, False), (2, 2, False), (3, 3, False)]
    assert torch.equal(seen[-1][3], model.decoder.weight)
    assert same(model, run(c=replace(C, ema=0.9))[0])
    held = training.Rows(V, known=False)
    assert h.val_kl.iloc[-1] == training.evaluate(model, held, C, 12)["kl"]


def test_an_error_in_on_epoch_leaves_the_trained_weights():
    def look(epoch, model, history):
        raise Plug

    model = Tiny()
    with pytest.raises(Plug):
        fit(model, D, replace(C, ema=0.9), on_epoch=look, progress=False)
    assert same(model, run(c=replace(C, steps=PER))[0])


def test_clipping_is_pytorchs():
    lengths = []

    class Watch(torch.optim.SGD):
        def step(self):
            lengths.append(
                torch.cat([p.grad.flatten() for g in self.param_groups for p in g["params"]])
                .norm()
                .item()
            )
            super().step()

    def trained(clip):
        model = Tiny()
        model.optimizers = lambda config: [Watch(model.parameters(), config.lr)]
        run(model, c=replace(C, clip=clip))
        return model

    free = trained(0.0)
    longest = max(lengths)
    assert same(trained(10 * longest), free) and not same(trained(0.5), free)
    assert lengths[-1] == pytest.approx(0.5, rel=1e-4)


def test_schedules():
    used = []

    class Watch(torch.optim.SGD):
        def step(self):
            used.append([g["lr"] for g in self.param_groups])
            super().step()

    model = Tiny()
    model.optimizers = lambda c: [
        Watch(
            [
                dict(params=model.encoder.parameters(), lr=1e-3),
                dict(params=model.decoder.parameters(), lr=1e-4),
            ]
        )
    ]
    run(model, c=replace(C, lr_warmup=3, lr_schedule="cosine"))
    expected = [min(1, (t + 1) / 3) * (1 + math.cos(math.pi * t / 12)) / 2 for t in range(12)]
    assert np.allclose(used, np.outer(expected, [1e-3, 1e-4]), atol=0)


def test_sparse_tables_move_only_the_rows_of_a_batch():
    model, start = Table(), Table()
    fit(model, D, replace(C, steps=1, ema=0.9), progress=False)
    moved = (model.table.weight != start.table.weight).any(1)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(training.seed_of(0, 1, 0)))
    assert set(moved.nonzero().flatten().tolist()) == set(order[:32].tolist())
    assert [id(p) for p in training.dense_parameters(model)] == [
        id(p) for p in model.decoder.parameters()
    ]


def test_a_table_has_no_rows_for_validation_images():
    with pytest.raises(IndexError):
        run(Table(), val=V)


# --------------------------------------------------------------- images that do not fit into memory
@pytest.fixture
def small_memory(monkeypatch):
    monkeypatch.setattr(training.Rows.__init__, "__defaults__", ("cpu", 0, 50 * 36, False, True))


@pytest.mark.parametrize("kind", ["rendered", "mapped"])
def test_images_from_afar_train_the_same(kind, tmp_path, small_memory):
    reads = []

    def draw(rows):
        reads.append((rows, threading.current_thread()))
        return X[rows]

    np.save(tmp_path / "x.npy", X)
    x = (
        cache.Rendered(draw, 100, X.shape[1:])
        if kind == "rendered"
        else cache.Stored(np.load(tmp_path / "x.npy", mmap_mode="r"))
    )
    far = images(x)
    a, h = run(d=far, val=far)
    if kind == "rendered":
        assert all(
            (np.diff(rows) > 0).all() and len(rows) <= 64 for rows, _ in reads
        )  # forward, and bounded
        assert {t for _, t in reads} - {threading.main_thread()}
    training.Rows.__init__.__defaults__ = ("cpu", None, 2**27, False, True)
    b, h2 = run(val=D)
    assert same(a, b) and plain(h).equals(plain(h2))


def test_read_only_arrays_are_copied_without_a_warning():
    x = X.copy()
    x.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = training.Rows(replace(D, x=x))
    assert torch.equal(rows(torch.tensor([3])).x[0], torch.from_numpy(X[3]).float() / 255)


def test_an_error_of_the_reading_thread_comes_out(small_memory):
    def draw(rows):
        if 99 in rows:
            raise data.DataError("image 99 cannot be drawn")
        return X[rows]

    with pytest.raises(data.DataError, match="image 99"):
        run(d=images(cache.Rendered(draw, 100, X.shape[1:]), name="broken"))


# ---------------------------------------------------------------- checkpoints
FULL = replace(C, ema=0.9, clip=2.0, lr_schedule="cosine", lr_warmup=3)


@pytest.mark.parametrize("at", [1, 3, 4, 6, 11])
@pytest.mark.parametrize("make", [Tiny, Table])
def test_resuming_gives_the_same_bits(at, make, tmp_path):
    whole, h = run(make(), c=FULL, val=V if make is Tiny else None)
    with pytest.raises(Plug):
        run(
            plug_at(at, make()),
            c=FULL,
            folder=tmp_path,
            save_every=0,
            val=V if make is Tiny else None,
        )
    assert load_checkpoint(tmp_path)["step"] == at
    again = make()
    for p in again.parameters():
        p.data.zero_()
    _, h2 = run(again, c=FULL, folder=tmp_path, val=V if make is Tiny else None)
    assert same(again, whole) and plain(h2).equals(plain(h))


def test_a_finished_folder_is_only_read(tmp_path):
    a, h = run(c=FULL, folder=tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}

    def look(*_):
        raise Plug

    b, h2 = run(plug_at(0, Tiny(seed=1)), c=FULL, folder=tmp_path, on_epoch=look)
    assert same(a, b) and h2.equals(h) and not b.training
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("first", [dict(epochs=1), dict(steps=6), dict(steps=1)])
def test_a_constant_schedule_can_be_continued(first, tmp_path):
    run(c=replace(C, **first), folder=tmp_path)
    a, h = run(folder=tmp_path)
    b, h2 = run()
    assert same(a, b) and plain(h).equals(plain(h2))


def test_two_checkpoints_and_the_milestones_stay(tmp_path):
    run(folder=tmp_path, save_every=0, milestones=(1,))
    assert [int(p.name[5:14]) for p in checkpoints(tmp_path)] == [4, 11, 12]
    run(folder=tmp_path / "b", milestones=(1, 2))
    assert [int(p.name[5:14]) for p in checkpoints(tmp_path / "b")] == [4, 8, 12]


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(how, tmp_path, capfd):
    whole, h = run()
    with pytest.raises(Plug):
        run(plug_at(7, Tiny()), folder=tmp_path, save_every=0)
    newest = checkpoints(tmp_path)[-1]
    old = bytearray(newest.read_bytes())
    old[len(old) // 2] ^= 4
    if how == "gone":
        newest.unlink()
    else:
        newest.write_bytes(dict(flipped=bytes(old), cut=bytes(old[:-9]), empty=b"")[how])
    a, h2 = run(folder=tmp_path)
    said = capfd.readouterr().err
    assert ("is damaged" in said) == (how != "gone") and said.count("\n") == (how != "gone")
    assert same(a, whole) and plain(h2).equals(plain(h))
    assert [int(p.name[5:14]) for p in checkpoints(tmp_path)] == [
        6,
        12,
    ]  # the damaged one does not count


def test_all_checkpoints_damaged_starts_anew_and_says_so(tmp_path, capfd):
    run(folder=tmp_path)
    for p in checkpoints(tmp_path):
        p.write_bytes(b"nonsense")
    run(folder=tmp_path)
    assert "is damaged" in capfd.readouterr().err and load_checkpoint(tmp_path)["step"] == 12


def test_checkpoints_cannot_run_code(tmp_path, capfd):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    training.save_checkpoint(tmp_path, 1, dict(step=1, evil=Evil()))
    assert load_checkpoint(tmp_path) is None and not (tmp_path / "owned").exists()
    assert "damaged" in capfd.readouterr().err


@dataclass(frozen=True)
class OtherConfig(FitConfig):
    "The same fields under another name."


CHANGES = [
    dict(seed=1),
    dict(batch=16),
    dict(lr=1e-2),
    dict(lr_warmup=1),
    dict(clip=1.0),
    dict(ema=0.5),
    dict(precision="bf16"),
    dict(lr_schedule="cosine"),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: next(iter(c)))
def test_another_setting_is_refused_by_name_and_nothing_is_loaded(change, tmp_path):
    run(c=replace(C, epochs=1), folder=tmp_path)
    model = Tiny(seed=1)
    with pytest.raises(TrainingError) as e:
        run(model, c=replace(C, **change), folder=tmp_path)
    ((name, value),) = change.items()
    assert f"{name} is {getattr(C, name)!r} there and {value!r} here" in str(e.value)
    assert "\n" not in str(e.value) and same(model, Tiny(seed=1))


@pytest.mark.parametrize("what", ["data", "labels", "model", "shape", "config", "fewer", "cosine"])
def test_another_system_is_refused(what, tmp_path):
    start = replace(C, lr_schedule="cosine") if what == "cosine" else C
    run(c=start, folder=tmp_path)
    x = X.copy()
    x[7] ^= 1
    model, d, c, says = dict(
        data=(Tiny(), images(x), C, "data is 'squares all, 100 images 1x6x6, sha256 "),
        labels=(
            Tiny(),
            images(y=np.zeros(100, int)),
            C,
            "data is 'squares all, 100 images 1x6x6, sha256 ",
        ),
        model=(Table(), D, C, "model is 'Tiny' there and 'Table' here"),
        shape=(Tiny(H=9), D, C, "the shape of encoder.1.weight is [8, 36] there and [9, 36] here"),
        config=(
            Tiny(),
            D,
            OtherConfig(**vars(C)),
            "config is 'FitConfig' there and 'OtherConfig' here",
        ),
        fewer=(Tiny(), D, replace(C, epochs=2), "the number of steps is 12 there and 8 here"),
        cosine=(Tiny(), D, replace(start, epochs=4), "epochs is 3 there and 4 here"),
    )[what]
    with pytest.raises(TrainingError) as e:
        fit(model, d, c, folder=tmp_path, progress=False)
    assert says in str(e.value) and str(tmp_path) in str(e.value)


def test_settings_that_may_change(tmp_path):
    c = configs.VAEConfig(epochs=1, batch=32, device="cpu")
    a, _ = run(c=c, folder=tmp_path)
    b, _ = run(
        Tiny(seed=1),
        c=replace(c, device="auto", channels_last=True, plots=False, samples=7),
        folder=tmp_path,
    )
    assert same(a, b)
    with pytest.raises(TrainingError, match="latent is 16 there and 3 here"):
        run(c=replace(c, latent=3), folder=tmp_path)


# ---------------------------------------------------------------- disks
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_stops_with_one_line_and_keeps_the_last_checkpoint(code, tmp_path, monkeypatch):
    whole, _ = run()
    write, count = training.write_atomic, []

    def full(path, content):
        count.append(path)
        if len(count) == 6:
            raise OSError(code, os.strerror(code), str(path))
        return write(path, content)

    monkeypatch.setattr(training, "write_atomic", full)
    with pytest.raises(TrainingError) as e:
        run(folder=tmp_path, save_every=0)
    last = checkpoints(tmp_path)[-1]
    assert "the checkpoint of step 6 cannot be written" in str(e.value) and os.strerror(
        code
    ) in str(e.value)
    assert str(last) in str(e.value) and "\n" not in str(e.value)
    assert load_checkpoint(tmp_path)["step"] == 5
    assert same(run(folder=tmp_path)[0], whole)


def test_a_folder_that_cannot_be_written_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TrainingError, match="no checkpoints can be written to"):
        run(plug_at(0, Tiny()), folder=tmp_path / "file" / "run")


def test_what_a_killed_process_left_is_swept_up(tmp_path):
    (tmp_path / ".part-1234abcd").write_bytes(b"half")
    run(folder=tmp_path)
    assert not list(tmp_path.glob(".part-*"))


# ---------------------------------------------------------------- numbers that are not finite
class Breaks(Tiny):
    def __init__(self, at, how):
        super().__init__()
        self.at, self.how = at, how

    def loss(self, batch, step, rng):
        t = super().loss(batch, step, rng)
        if step == self.at:
            if self.how == "kl":
                t["kl"] = t["kl"] * math.nan
                t["loss"] = t["recon"] + t["kl"]
            if self.how == "loss":
                t["loss"] = t["loss"] * math.inf
            if self.how == "the gradient's length":
                t["loss"] = (
                    t["loss"] + (self.decoder.weight[0, 0] * 0).sqrt()
                )  # its gradient is 0 * inf
        return t


@pytest.mark.parametrize("how", ["kl", "loss", "the gradient's length"])
@pytest.mark.parametrize("at", [0, 6, 11])
def test_the_first_bad_number_is_named_and_never_saved(how, at, tmp_path):
    model = Breaks(at, how)
    with pytest.raises(TrainingError) as e:
        run(model, folder=tmp_path, save_every=0)
    assert f"step {at}: {how} is {'inf' if how == 'loss' else 'nan'}" in str(e.value)
    assert all(p.isfinite().all() for p in model.parameters())  # the optimizer did not move
    if at:
        assert f"the last good checkpoint is {checkpoints(tmp_path)[-1]}" in str(e.value)
        assert load_checkpoint(tmp_path)["step"] == at
    else:
        assert "there is no checkpoint" in str(e.value) and not checkpoints(tmp_path)


def test_looking_later_as_on_a_gpu_still_names_the_step_and_saves_nothing_bad(
    tmp_path, monkeypatch
):
    real, looks = training.Run.check, []

    def rarely(self):
        if self.step % 20 and self.step < self.total and not looks:  # as `EVERY` on a GPU
            return
        real(self)

    monkeypatch.setattr(training.Run, "check", rarely)
    with pytest.raises(TrainingError, match="step 2: kl is nan"):
        run(Breaks(2, "kl"), c=replace(C, batch=5, epochs=1), folder=tmp_path)
    assert not checkpoints(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_ruined_weights_are_never_saved(value, tmp_path):
    class Ruins(torch.optim.Adam):
        def step(self):
            super().step()
            if self.state[self.param_groups[0]["params"][0]]["step"] == 12:
                self.param_groups[0]["params"][-2].data[0, 0] = value

    model = Tiny()
    model.optimizers = lambda c: [Ruins(model.parameters(), c.lr)]
    with pytest.raises(
        TrainingError, match=r"step 12: decoder\.weight holds numbers that are not finite"
    ):
        run(model, folder=tmp_path, save_every=0)
    assert load_checkpoint(tmp_path)["step"] == 11
    model = Tiny()
    model.optimizers = lambda c: [Ruins(model.parameters(), c.lr)]
    with pytest.raises(TrainingError, match="there is no checkpoint"):
        run(model)  # without a folder too


# ---------------------------------------------------------------- Ctrl-C
@pytest.fixture(autouse=True)
def usual_signals():
    "A shell starts background jobs with Ctrl-C ignored, and `fit` respects that."
    was = (
        signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.signal(signal.SIGTERM, signal.SIG_DFL),
    )
    yield
    signal.signal(signal.SIGINT, was[0])
    signal.signal(signal.SIGTERM, was[1])


def test_an_ignored_ctrl_c_stays_ignored():
    class Pressed(Tiny):
        def loss(self, batch, step, rng):
            signal.raise_signal(signal.SIGINT)
            return super().loss(batch, step, rng)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert same(run(Pressed())[0], run()[0])


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_ctrl_c_finishes_the_step_saves_and_stops(number, error, tmp_path):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    class Pressed(Tiny):
        def loss(self, batch, step, rng):
            if step == 5:
                signal.raise_signal(number)
            return super().loss(batch, step, rng)

    with pytest.raises(error):
        run(Pressed(), folder=tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert load_checkpoint(tmp_path)["step"] == 6
    state = load_checkpoint(tmp_path)
    state["identity"]["model"] = "Tiny"
    training.save_checkpoint(tmp_path, 6, {k: v for k, v in state.items() if k != "path"}, keep=1)
    assert same(run(folder=tmp_path)[0], run()[0])


def test_a_second_ctrl_c_interrupts_at_once():
    class Pressed(Tiny):
        def loss(self, batch, step, rng):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        run(Pressed())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_fit_works_outside_of_the_main_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(run()[0]))
    thread.start()
    thread.join()
    assert same(found[0], run()[0])


# ---------------------------------------------------------------- silly input
class Says(Tiny):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def loss(self, batch, step, rng):
        return self.answer(super().loss(batch, step, rng), step)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            lambda t, s: t["loss"],
            "step 0: a model's loss must return a dict with a tensor 'loss'.*got a Tensor",
        ),
        (lambda t, s: dict(recon=t["recon"]), "got a dict with recon"),
        (lambda t, s: {}, "got a dict with nothing"),
        (
            lambda t, s: t | dict(kl=torch.ones(3)),
            r"'kl' has shape \[3\]; every term must be one number",
        ),
        (lambda t, s: dict(loss=t["loss"].detach()), "does not depend on any trained parameter"),
        (
            lambda t, s: t if s < 2 else dict(loss=t["loss"], kl=t["kl"]),
            "step 2: the loss's terms were loss, recon, kl so far, and now are loss, kl",
        ),
    ],
)
def test_a_wrong_loss_is_named(answer, says):
    with pytest.raises(TrainingError, match=says):
        run(Says(answer))


def test_plain_numbers_may_be_logged():
    _, h = run(Says(lambda t, s: t | dict(beta=s / 10)))
    assert h.beta.iloc[0] == pytest.approx((0 * 32 + 0.1 * 32 + 0.2 * 32 + 0.3 * 4) / 100)


def test_other_silly_input():
    with pytest.raises(TrainingError, match="there are no images"):
        run(d=D.subset(np.arange(0)))
    with pytest.raises(TrainingError, match="Linear has no loss"):
        fit(nn.Linear(1, 1), D, C)
    for val in (images(np.zeros((5, 1, 7, 6), np.uint8)), D.subset(np.arange(0))):
        with pytest.raises(TrainingError, match="validation images are"):
            run(val=val)
    frozen = Tiny().requires_grad_(False)
    with pytest.raises(TrainingError, match="Tiny has no parameters to train"):
        run(frozen)
    for name in ("cuda:99", "gpu", "cuda" if not torch.cuda.is_available() else "mps"):
        with pytest.raises(ConfigError, match=f"device is '{name}"):
            run(c=replace(C, device=name))


# ---------------------------------------------------------------- arithmetic
@pytest.mark.parametrize(
    ("change", "tolerance"), [(dict(channels_last=True), 1e-5), (dict(precision="bf16"), 0.03)]
)
def test_options_compute_the_same_thing(change, tolerance):
    _, h = run(val=V)
    _, other = run(c=replace(C, **change), val=V)
    assert np.allclose(plain(other), plain(h), rtol=tolerance)
    assert next(iter(change)) == "channels_last" or not other.loss.equals(h.loss)


def test_evaluation_changes_neither_mode_nor_depends_on_it():
    model = Tiny().train()
    a = training.evaluate(model, V, C)
    assert model.training and training.evaluate(model.eval(), V, C) == a and not model.training
    assert a != training.evaluate(model, V, replace(C, seed=1))


def test_compiling_needs_a_compiler_and_says_so(monkeypatch):
    def compile(self, *args, **kwargs):
        def broken(*a, **k):
            raise torch._dynamo.exc.BackendCompilerFailed(
                lambda: 0, RuntimeError("No working C++ compiler found"), None
            )

        self._compiled_call_impl = broken

    monkeypatch.setattr(nn.Module, "compile", compile)
    with pytest.raises(ConfigError, match="compile is true, but torch.compile does not work here"):
        run(c=replace(C, compile=True))


@pytest.mark.slow
def test_compiled_networks_train_alike():
    a, h = run(val=V)
    b, h2 = run(c=replace(C, compile=True), val=V)
    assert np.allclose(
        plain(h2), plain(h), rtol=0.05
    )  # dropout inside of compiled code has random numbers of its own
    assert not any(m._compiled_call_impl for m in b.modules()) and list(a.state_dict()) == list(
        b.state_dict()
    )


def test_the_bar_shows_losses_and_speed(monkeypatch):
    shown = io.StringIO()
    real = training.tqdm
    monkeypatch.setattr(
        training, "tqdm", lambda **k: real(**{**k, "file": shown, "mininterval": 0})
    )
    clock = iter(range(0, 10**6, 2))
    monkeypatch.setattr(training.time, "time", lambda: float(next(clock)))
    fit(Tiny(), D, C)
    text = shown.getvalue()
    assert "12/12" in text and all(word in text for word in ("loss=", "recon=", "kl=", "images/s="))
