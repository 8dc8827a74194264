"Chapter 05: the linear world, the model and its two phases, stacks, tables, figures, mistakes."

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from genmix import beta_vae, configs, experiments, figures, reproduce, runs
from genmix.parts.beta_stack import Stack
from genmix.configs import BetaVAEConfig, ConfigError
from genmix.data import DataError, load
from genmix.parts.linear_world import (
    LinearVAE,
    LinearWorld,
    best_decoder,
    best_encoder,
    fixed_point,
    gain,
    gains,
    linear_loss,
    linear_scores,
    linear_start,
    linear_terms,
    linear_world,
    theory_table,
    water_filling,
)
from genmix.studies import beta_run
from genmix.studies import beta_vae as study
from genmix.training import Batch, Noise

REFERENCE = Path(os.environ.get("GENMIX_DATA", "nowhere")) / "linear_beta"
C = BetaVAEConfig(n=80, steps=4, lambda_steps=0, batch=32, plots=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A run in two phases, with pictures."
    out = tmp_path_factory.mktemp("runs")
    return experiments.train(replace(C, lambda_=2.0, lambda_steps=3, plots=True), out), out


# ----- the linear world


@pytest.mark.skipif(not REFERENCE.exists(), reason="the published study's matrices are not here")
@pytest.mark.parametrize(
    "n, rows",
    [
        (
            50,
            {
                (4, 0): (11.553, 0, 0),
                (4, 2): (2.824, 0.160, 1.187),
                (8, 4): (3.209, 0.159, 1.177),
                (32, 2): (8.662, 0.105, 0.706),
                (32, 8): (5.196, 0.152, 1.101),
            },
        ),
        (
            100,
            {
                (4, 0): (8.268, 0, 0),
                (4, 2): (-1.123, 0.154, 1.166),
                (8, 4): (-0.737, 0.154, 1.156),
                (32, 2): (4.716, 0.103, 0.725),
                (32, 8): (1.250, 0.143, 1.075),
            },
        ),
    ],
)
def test_published_table(n, rows):
    "arXiv 2602.09277: reconstructions to all digits, SAP and I_m within what other starts change."
    f, g = (
        runs.load_arrays(REFERENCE / f"{name}_n{n}_m10_s5.npz")
        for name in ("Gamma_Sigma_Y", "Sigma_V")
    )
    world = LinearWorld(f["Gamma"], g["Sigma_V"], f["Sigma_Y"])
    starts = 50 if n == 50 else 20
    t = theory_table(world, list(rows), starts=starts).set_index(["beta", "lambda"])
    for setting, (recon, sap, im) in rows.items():
        r = t.loc[setting]
        assert abs(r.recon - recon) < 6e-4
        se = math.sqrt(1 / 50 + 1 / starts) * math.sqrt(
            starts
        )  # of the difference of two means, in units of ours
        assert (
            abs(r.sap - sap) <= 4 * se * r.sap_se + 1e-3
            and abs(r.im - im) <= 4 * se * r.im_se + 1e-3
        )


@pytest.mark.parametrize("beta", [1.5, 4.0, 16.0])
def test_gain_shrinks_by_beta(beta):
    found = []
    fixed_point(
        linear_world(12, 3, seed=1).Sigma_Y,
        linear_start(4, 12, 3, seed=2),
        beta,
        0,
        8,
        lambda v: found.append(gain(v)),
    )
    found = np.array(found)
    np.testing.assert_allclose(found[1:] / found[:-1], 1 / beta, rtol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_water_filling_is_the_fixed_point(seed):
    "Also where factors lie under the level, and where there are fewer latents than factors."
    world = linear_world(20, 4, seed=seed)
    top = np.linalg.eigvalsh(world.Sigma_Y)[::-1]
    for level, m in ((0.3, 6), (math.sqrt(top[1] * top[2]), 6), (0.3, 2)):
        beta, lambda_ = 3.0, 1 / level  # (beta - 1) / (2 lambda) is the level
        v = fixed_point(world.Sigma_Y, linear_start(m, 20, 1, seed), beta, lambda_, 3000)
        w = water_filling(world.Sigma_Y, beta, lambda_, m)
        assert w["level"] == pytest.approx(level)
        assert linear_terms(v, world.Sigma_Y)["recon"].item() == pytest.approx(w["recon"], abs=1e-3)
        information = (
            0.5 * (np.linalg.slogdet(world.Sigma_Y)[1] - np.linalg.slogdet(v.Sigma_Z)[1]).item()
        )
        assert information == pytest.approx(w["information"], abs=1e-3)


def test_only_the_ratio_counts():
    world, start = linear_world(15, 3, seed=0), linear_start(5, 15, 1, 0)
    a, b = (
        fixed_point(world.Sigma_Y, start, beta, (beta - 1) / 2, 2000).Sigma_Z for beta in (2.0, 9.0)
    )
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_water_filling_needs_a_price():
    with pytest.raises(ConfigError, match="above 1"):
        water_filling(np.eye(3), 1.0, 2.0)


def test_half_steps_never_raise_the_loss():
    world, (B, W) = linear_world(10, 3, seed=5), linear_start(4, 10, 2, 7)
    last = np.inf
    for _ in range(20):
        A, Z = best_decoder(B, W, world.Sigma_Y)
        now = linear_loss(LinearVAE(A, Z, B, W), world.Sigma_Y, 3.0, 0.5)
        assert (now <= last + 1e-8).all()
        B, W = best_encoder(A, Z, 3.0, 0.5)
        last = linear_loss(LinearVAE(A, Z, B, W), world.Sigma_Y, 3.0, 0.5)
        assert (last <= now + 1e-8).all()


def test_scores_of_known_codes():
    "Latent i hears factor i through noise: I_m is the sum over channels, in any order."
    world = LinearWorld(
        np.eye(3), np.diag([1.0, 2.0, 3.0]), np.diag([1.0, 2.0, 3.0]) + 1e-9 * np.eye(3)
    )
    P = np.eye(3)[[2, 0, 1]]
    v = LinearVAE(np.eye(3), np.eye(3), P, 0.5 * np.eye(3))
    s = linear_scores(world, v)
    assert s["im"] == pytest.approx(0.5 * np.log1p(np.array([1, 2, 3]) / 0.5).sum(), abs=1e-6)
    assert s["sap"] == pytest.approx(
        np.mean(np.array([1, 2, 3]) / (np.array([1, 2, 3]) + 0.5)), abs=1e-6
    )


# ----- the model


def test_total_correlation_of_independent_means_is_small_and_of_copies_is_large():
    g = torch.Generator().manual_seed(0)
    mu = torch.randn(1000, 1, generator=g).repeat(1, 2)
    logvar = torch.full_like(mu, math.log(0.01))

    def z(m):
        return m + 0.1 * torch.randn(m.shape, generator=g)

    apart = torch.randn(1000, 2, generator=g)
    assert (
        beta_vae.total_correlation(z(mu), mu, logvar)
        > 1.5
        > 0.2
        > beta_vae.total_correlation(z(apart), apart, logvar)
    )


@pytest.mark.parametrize("penalty", ["kl", "tc"])
def test_gradients(penalty):
    "Against finite differences, in double precision."
    c = BetaVAEConfig(beta=3, lambda_=2, lambda_steps=1, latent=2, penalty=penalty)
    torch.manual_seed(0)
    model, x = (
        beta_vae.BetaVAE(c, (1, 64, 64)).double(),
        torch.rand(3, 1, 64, 64, dtype=torch.float64),
    )

    def loss():
        return model.loss(Batch(x, torch.zeros(3), torch.arange(3)), 0, Noise(1))["loss"]

    loss().backward()
    for p in (model.encoder.net[-1].bias, model.decoder.net[0].weight):
        found, h = p.grad.flatten()[0].item(), 1e-5
        with torch.no_grad():
            p.flatten()[0] += h
            up = loss().item()
            p.flatten()[0] -= 2 * h
            down = loss().item()
            p.flatten()[0] += h
        assert found == pytest.approx((up - down) / (2 * h), rel=1e-5)


@pytest.mark.parametrize("penalty", ["kl", "tc"])
def test_weights_of_the_terms(penalty):
    "Equation 5.11, and the variant whose beta weighs the total correlation alone."
    c = BetaVAEConfig(beta=3, lambda_=2, lambda_steps=1, latent=2, penalty=penalty)
    x = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.manual_seed(0)
    model = beta_vae.BetaVAE(c, (1, 64, 64)).double()
    model.encoder.net[-1].weight.data *= 1000  # codes that differ, so that every term is large
    t = model.loss(Batch(x, torch.zeros(4), torch.arange(4)), 0, Noise(1))
    assert penalty == "kl" or abs(t["tc"]) > 0.01
    expected = (
        t["recon"] + (3 * t["kl"] if penalty == "kl" else t["kl"] + 2 * t["tc"]) + 2 * t["l2"]
    )
    assert t["loss"].item() == pytest.approx(expected.item(), rel=1e-9)


def test_second_phase_starts_from_the_first(trained, tmp_path):
    folder, out = trained
    first = runs.run_folder(out, replace(C, plots=True))
    assert (first / "result.json").exists() and (folder / "result.json").exists()
    weights = runs.load_weights(folder)
    assert (
        weights.config.lambda_ == 2
        and weights.config.steps == 4
        and weights.config.lambda_steps == 3
    )
    model = beta_vae.model_of(
        replace(C, lambda_=2.0, lambda_steps=3, plots=True), load("sprites", "train", n=80, seed=0)
    )
    runs.load_weights(first).into(model)
    from genmix import training

    again = training.fit(
        model.train(),
        load("sprites", "train", n=80, seed=0),
        replace(weights.config, steps=3),
        progress=False,
    )
    for k, v in model.state_dict().items():
        torch.testing.assert_close(v, weights.tensors[k], rtol=1e-4, atol=1e-6)
    assert list(again.step)[-1] == 3


def test_first_phase_is_reused(trained, capsys):
    folder, out = trained
    experiments.train(replace(C, lambda_=8.0, lambda_steps=1, plots=True), out)
    assert "complete already" in capsys.readouterr().out
    assert sum(1 for _ in (out / "beta-vae").glob("*/result.json")) >= 3


def test_damaged_first_phase_is_named(tmp_path):
    first = experiments.train(C, tmp_path)
    (first / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(runs.RunError, match="model.safetensors"):
        experiments.train(replace(C, lambda_=1.0, lambda_steps=1), tmp_path)
    (first / "model.safetensors").unlink()
    with pytest.raises(runs.RunError, match="no such file of weights"):
        experiments.train(replace(C, lambda_=1.0, lambda_steps=1), tmp_path)


def test_metrics_and_provenance(trained):
    r = runs.read_result(trained[0])
    assert {
        "recon_test",
        "kl_test",
        "l2_test",
        "mig",
        "sap",
        "im",
        "im_share",
        "modularity",
        "active_units",
    } <= set(r["metrics"])
    assert r["metrics"]["kl_test"] == pytest.approx(sum(r["metrics"]["kl_per_latent"]), rel=1e-5)
    assert (
        r["provenance"]["steps"] == 3
        and (trained[0] / "figures" / "traversals.gif").stat().st_size > 1000
    )


@pytest.mark.parametrize(
    "settings, why",
    [
        (dict(beta=-1.0), "beta must be"),
        (dict(lambda_=-1.0), "lambda must be"),
        (dict(beta=math.nan), "beta must be"),
        (dict(lambda_=2.0, lambda_steps=0), "no second phase"),
        (dict(second_beta=2.0, lambda_steps=0), "second_beta is 2, and there is no second phase"),
        (dict(penalty="mi"), "kl or tc"),
        (dict(latent=0), "latent must be at least 1"),
        (dict(lambda_steps=-1), "at least 0"),
    ],
)
def test_impossible_settings(settings, why):
    with pytest.raises(ConfigError, match=why):
        BetaVAEConfig(**settings)


def test_images_of_another_size():
    with pytest.raises(ConfigError, match="64x64.*1x28x28"):
        beta_vae.model_of(C, load("digits"))


def test_images_without_factors(tmp_path):
    "A folder of one's own: losses and pictures, no metrics."
    x = np.random.default_rng(0).integers(0, 255, (40, 64, 64), np.uint8)
    np.savez(tmp_path / "own.npz", x=x, y=np.zeros(40, np.int64))
    folder = experiments.train(
        replace(C, data=str(tmp_path / "own.npz"), n=0, steps=2, plots=True), tmp_path / "runs"
    )
    found = runs.read_result(folder)["metrics"]
    assert "l2_test" in found and "mig" not in found
    assert (folder / "figures" / "traversal.png").exists() and not (
        folder / "figures" / "information.png"
    ).exists()


def test_a_folder_of_color_pictures(tmp_path):
    "Read as 64x64 pixels in color, whatever their size."
    from PIL import Image

    rng = np.random.default_rng(0)
    (tmp_path / "own").mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 255, (50, 70, 3), np.uint8)).save(
            tmp_path / "own" / f"{i}.png"
        )
    c, task = experiments.load_images(replace(C, data=str(tmp_path / "own"), n=0))
    assert task.train.x.shape[1:] == task.test.x.shape[1:] == (3, 64, 64)
    folder = experiments.train(replace(c, steps=2), tmp_path / "runs")
    assert experiments.load_model(folder).sample(2, 0).shape == (2, 3, 64, 64)


def test_published_protocol_uses_all_images():
    c, task = experiments.load_images(replace(C, held_out=False, n=500))
    assert (
        task.val is None
        and task.train.split == "all"
        and task.test.split == "all"
        and len(task.test) == 1000
    )


def test_weights_come_back(trained):
    model = experiments.load_model(trained[0])
    s = runs.load_arrays(trained[0] / "figures.npz")
    test = experiments.load_images(replace(C, plots=True))[1].test
    np.testing.assert_allclose(beta_vae.view(model, test)["mu"], s["mu"], rtol=1e-3, atol=1e-4)


# ----- looking


def test_traversal_moves_one_latent():
    model = beta_vae.model_of(C, load("sprites", "train", n=10, seed=0)).eval()
    z = torch.randn(2, 10, generator=torch.Generator().manual_seed(0))
    t = beta_vae.traverse(model, z, -1, 1, frames=3)
    assert t.shape == (2, 10, 3, 1, 64, 64)
    moved = z[1].clone()
    moved[4] = 1.0
    with torch.no_grad():
        expected = (model.decode(moved[None]) * 255).round().byte().numpy()[0]
    assert np.abs(t[1, 4, 2].astype(int) - expected).max() <= 1


def test_figures_are_drawn_again(trained, tmp_path):
    drawn = figures.draw(run=trained[0], out=tmp_path)
    assert {p.stem for p in drawn} >= {
        "beta-vae-originals",
        "beta-vae-traversal",
        "beta-vae-information",
        "beta-vae-curves",
    }


def test_film(trained, tmp_path):
    s = runs.load_arrays(trained[0] / "figures.npz")
    path = beta_run.traversal_film(s | dict(traversals=s["traversals"][:1]), tmp_path / "film.gif")
    from PIL import Image

    assert Image.open(path).n_frames == 20


# ----- many models


def test_stack_is_each_alone():
    "Three members, two seeds; also over the end of an epoch, with its smaller batch."
    from genmix import training

    class Double(beta_vae.BetaVAE):
        def loss(self, batch, step, rng):
            return super().loss(batch._replace(x=batch.x.double()), step, rng)

    train = load("sprites", "train", n=50, seed=0)
    members = [
        replace(C, n=50, beta=4.0, seed=1),
        replace(C, n=50, beta=1.0, lambda_=2.0, lambda_steps=1, seed=1),
        replace(C, n=50, beta=2.0, seed=2),
    ]

    def fresh(c):
        torch.manual_seed(c.seed)
        return Double(c, (1, 64, 64)).double()

    stack = Stack([fresh(c) for c in members], members, train)
    history = training.fit(stack, train, members[0], progress=False)
    models = [fresh(c) for c in members]
    before = [p.clone() for p in models[0].parameters()]
    Stack(models, members, train)
    assert all(
        (a == b).all() for a, b in zip(before, models[0].parameters())
    )  # the models that it was made of are still whole
    for c, m in zip(members, stack.into([fresh(c) for c in members])):
        alone = fresh(c)
        h = training.fit(alone, train, c, progress=False)
        for a, b in zip(alone.parameters(), m.parameters()):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
        assert np.isfinite(h.loss).all() and np.isfinite(history.loss).all()


def test_members_of_a_stack_must_agree():
    train = load("sprites", "train", n=50, seed=0)
    with pytest.raises(ConfigError, match="agree"):
        Stack([beta_vae.model_of(C, train)] * 2, [C, replace(C, batch=16)], train)
    with pytest.raises(ConfigError, match="agree"):
        Stack([beta_vae.model_of(C, train)] * 2, [C, replace(C, lr=1.0)], train)
    with pytest.raises(ConfigError, match="clip"):
        Stack([beta_vae.model_of(C, train)], [replace(C, clip=1.0)], train)


def test_a_stacked_sweep_leaves_the_runs_that_training_one_by_one_leaves(tmp_path, capsys):
    "Two seeds, two betas, another second beta: weights and metrics as alone, nothing twice."
    members = [
        replace(
            C,
            n=50,
            steps=3,
            lambda_steps=2,
            beta=b,
            lambda_=l,
            seed=s,
            second_beta=b2,
            batch=16,
            precision="float32",
        )
        for b, l, b2 in ((1.0, 0.0, None), (4.0, 2.0, None), (4.0, 0.0, 2.0))
        for s in (0, 1)
    ]
    stacked = experiments.train_stacks(members, tmp_path / "a", progress=False)
    assert "4 models in one stack: first phases, 3 steps" in capsys.readouterr().out and not list(
        (tmp_path / "a/stacks").iterdir()
    )
    for c, folder in zip(members, stacked):
        alone = experiments.train(c, tmp_path / "b")
        assert folder.name == alone.name
        a, b = (runs.load_weights(f).tensors for f in (folder, alone))
        assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-4
        a, b = (runs.read_result(f)["metrics"] for f in (folder, alone))
        assert (
            a["recon_test"] == pytest.approx(b["recon_test"], abs=0.05) and a["images_train"] == 50
        )
        assert runs.read_result(folder)["provenance"]["stacked"] == 6
        first = runs.load_weights(
            runs.run_folder(tmp_path / "b", experiments.first_phase(c))
        ).tensors
        assert not any(
            np.array_equal(runs.load_weights(folder).tensors[k], v)
            for k, v in first.items()
            if "weight" in k
        )
    before = {f: (f / "model.safetensors").stat().st_mtime_ns for f in stacked}
    capsys.readouterr()
    more = experiments.train_stacks(
        [*members, replace(members[0], beta=9.0), replace(members[0], latent=3)],
        tmp_path / "a",
        progress=False,
    )
    assert (
        capsys.readouterr().out.count("1 models in one stack: second phases") == 2
    )  # the new one, and the one of another size
    assert (
        more[:6] == stacked
        and {f: (f / "model.safetensors").stat().st_mtime_ns for f in stacked} == before
    )


def test_a_stacked_sweep_goes_on_where_it_stopped(tmp_path, monkeypatch):
    members = [replace(C, n=50, steps=4, beta=b, seed=1) for b in (1.0, 4.0)]
    whole = experiments.train_stacks(members, tmp_path / "a", progress=False)
    from genmix import training

    fit, seen = training.fit, []

    def stops(model, data, c, **how):
        fit(
            model,
            data,
            c,
            on_epoch=lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
            save_every=0,
            **how,
        )

    monkeypatch.setattr(training, "fit", stops)
    with pytest.raises(KeyboardInterrupt):
        experiments.train_stacks(members, tmp_path / "b", progress=False)
    assert (
        not list((tmp_path / "b").glob("beta-vae/*/result.json"))
        and len(list((tmp_path / "b/stacks").iterdir())) == 1
    )
    monkeypatch.setattr(
        training,
        "fit",
        lambda *a, **how: seen.append(len(list(how["folder"].glob("step-*")))) or fit(*a, **how),
    )
    again = experiments.train_stacks(members, tmp_path / "b", progress=False)
    assert seen and seen[0] > 0
    for a, b in zip(whole, again):
        a, b = (runs.load_weights(f).tensors for f in (a, b))
        assert all(np.array_equal(a[k], b[k]) for k in a)


def test_only_beta_vae_has_a_stack(tmp_path):
    with pytest.raises(ConfigError, match="vae has no stack"):
        experiments.sweep_runs("vae", ["seed=0,1"], out=tmp_path, stacked=True)
    assert not list(tmp_path.iterdir())


# ----- tables


def row(d, b, l, s):
    numbers = {
        "recon_test": 100 * b + s - l,
        "kl_test": 20 / b + l,
        "l2_test": 10 * b,
        "sap": 0.1 * b,
        "mig": 0.2 / b,
        "im": 1.0 + s,
    }
    return {
        "data": d,
        "penalty": "kl",
        "beta": b,
        "second_beta": b,
        "lambda": l,
        "seed": s,
        **numbers,
    }


TABLE = pd.DataFrame(
    [
        row(d, b, l, s)
        for d in ("sprites", "rooms")
        for b in (1.0, 4.0)
        for l in (0.0, 8.0)
        for s in (0, 1)
    ]
)


def test_change_is_against_beta_1_lambda_0():
    t = study.change(TABLE).set_index(["data", "lambda", "beta"])
    assert t.loc[("rooms", 0, 1)].drop("runs").abs().max() < 1e-9
    assert t.loc[("rooms", 0, 4), "mig"] == pytest.approx(-75) and t.loc[
        ("sprites", 8, 1), "recon_test"
    ] == pytest.approx(100 * (92.5 / 100.5 - 1))
    with pytest.raises(ConfigError, match="beta = 1 and lambda = 0"):
        study.change(TABLE[TABLE.beta > 1])


def test_every_figure_of_a_study_can_be_drawn(tmp_path):
    def percent(df, text):
        return study.plot_heat(df, text, percent=True)

    for draw in (
        study.plot_boxes,
        study.plot_heat,
        percent,
        study.plot_pareto,
        study.plot_tchebycheff,
        study.plot_rate,
    ):
        fig = draw(TABLE, "a caption")
        fig.savefig(tmp_path / "x.png")
        assert len(fig.axes) >= 4 and {"sprites", "rooms"} <= {
            w for ax in fig.axes for w in ax.get_title().replace(":", " ").split()
        }
        assert any(ax.get_xlabel() for ax in fig.axes) and any(ax.get_ylabel() for ax in fig.axes)


def test_figures_of_a_grid_leave_second_phases_with_another_beta_out():
    "Their points would be taken for those of the first beta."
    odd = TABLE.assign(second_beta=TABLE.beta / 2, recon_test=1e6, mig=50.0)
    for draw in (
        study.plot_boxes,
        study.plot_heat,
        study.plot_pareto,
        study.plot_tchebycheff,
    ):
        one, both = (draw(df, "") for df in (TABLE, pd.concat([TABLE, odd])))
        for a, b in zip(one.axes, both.axes):
            assert a.get_ylim() == b.get_ylim() and [t.get_text() for t in a.texts] == [
                t.get_text() for t in b.texts
            ]


def test_rates_leave_out_what_only_some_seeds_have():
    more = pd.concat(
        [
            TABLE,
            TABLE[TABLE.seed == 0].assign(second_beta=2.0),
            TABLE[(TABLE.seed == 1) & (TABLE.beta == 4)].assign(beta=8.0, second_beta=8.0),
        ]
    )
    assert [len(ax.texts) for ax in study.plot_rate(more, "").axes] == [
        len(ax.texts) for ax in study.plot_rate(TABLE, "").axes
    ]
    shown = study.plot_rate(pd.concat([TABLE, TABLE.assign(second_beta=2.0)]), "").axes[0].texts
    assert {"→2", "second β", "4"} <= {t.get_text() for t in shown}


def test_equal_kl_leaves_no_difference_on_a_curve():
    "Runs with lambda whose numbers are those of a known curve; those outside it are left out."

    def at(beta, lambda_, kl, more=0.0):
        numbers = {
            "kl_test": kl,
            "recon_test": 300 - 40 * math.log(kl) + more,
            "mig": 0.1 * math.log(kl),
        }
        return {
            "data": "x",
            "penalty": "kl",
            "seed": 1,
            "beta": beta,
            "second_beta": beta,
            "lambda": lambda_,
        } | numbers

    others = [at(4, 8.0, 14), at(16, 8.0, 8, 7.0), at(1, 8.0, 40), at(9, 8.0, 4)]
    df = pd.DataFrame([at(b, 0.0, k) for b, k in ((1, 30), (4, 10), (16, 5))] + others)
    found = study.at_equal_kl(df, ("recon_test", "mig")).set_index("beta")
    assert set(found.index) == {4, 16}
    more = pd.DataFrame(
        [at(2, 0.0, 20, -3.0) | {"second_beta": 1}, at(8, 0.0, 12, 2.0) | {"penalty": "tc"}]
    )  # neither changes the curve
    both = study.at_equal_kl(pd.concat([df, more]), ("recon_test", "mig")).set_index("beta")
    np.testing.assert_allclose(both.recon_test[[4, 16, 2, 8]], [0, 7, -3, 2], atol=1e-9)
    np.testing.assert_allclose(found.recon_test[[4, 16]], [0, 7], atol=1e-9)
    np.testing.assert_allclose(found.mig, 0, atol=1e-9)
    one = study.at_equal_kl(df[(df["lambda"] > 0) | (df.beta == 1)], ("recon_test",))
    assert not len(one)  # a single run is no curve


def test_gains_are_those_of_the_iteration():
    world, start = linear_world(12, 3, seed=1), linear_start(4, 12, seed=2)
    found = gains(world, 4, 2, start, 5)
    v = fixed_point(
        world.Sigma_Y, start, 4, 2, 4
    )  # four rounds later the encoder is that of the fifth call
    assert len(found) == 5 and found[4] == pytest.approx(gain(v).item())


def test_what_the_study_consists_of():
    df = TABLE.assign(steps=10, lambda_steps=3, images_test=20)
    more = pd.concat(
        [
            df,
            df.assign(beta=2.0, second_beta=2.0),
            df.assign(penalty="tc"),
            df.assign(second_beta=3.0),
        ]
    )
    assert len(study.main_study(more)) == len(df)
    said = study.study_text(more[(more.data != "rooms") | (more.seed == 0)])
    assert (
        said
        == "sprites (rebuilt): seeds 0, 1; rooms (synthetic): seed 0. 10 + 3 steps, 20 test images"
    )


def test_summary_tells_second_phases_with_another_beta_apart():
    assert "second_beta" not in study.summary(TABLE) and study.summary(
        TABLE
    ).runs.sum() == len(TABLE)
    t = study.summary(pd.concat([TABLE, TABLE.assign(second_beta=3.0)]))
    assert len(t) == 2 * len(study.summary(TABLE)) and set(t.second_beta) == {1, 3, 4}
    assert study.change(pd.concat([TABLE, TABLE.assign(second_beta=3.0, mig=9.0)])).equals(
        study.change(TABLE)
    )


def test_pareto_by_brute_force():
    rng = np.random.default_rng(0)
    cost, profit = rng.integers(0, 6, 40), rng.integers(0, 6, 40)
    found = study.pareto(cost, profit)
    for i in range(40):
        beaten = any(
            cost[j] <= cost[i]
            and profit[j] >= profit[i]
            and (cost[j], profit[j]) != (cost[i], profit[i])
            for j in range(40)
        )
        assert found[i] == (not beaten)


def test_verdict_follows_the_table():
    said = " ".join(study.verdict(TABLE))
    assert (
        "from β = 1 to β = 4 the code's KL falls from 20.0 to 5.0 nats" in said
        and "λ = 8 gives back 8.0 nats of KL" in said
    )


def test_sweep_trains_first_phases_once(tmp_path, capsys):
    df = experiments.sweep_runs(
        "beta-vae",
        ["n=60", "steps=2", "lambda_steps=1", "lambda=0,2", "seed=0,1", "plots=no"],
        out=tmp_path,
        workers=1,
    )
    assert len(df) == 4 and set(df["lambda_"]) == {0, 2}
    assert sum(1 for _ in (tmp_path / "beta-vae").glob("*/result.json")) == 6


def test_published_presets():
    c = configs.preset("paper", "beta-vae")
    assert (c.data, c.batch, c.latent, c.lr, c.steps, c.lambda_steps, c.held_out) == (
        "dsprites",
        64,
        10,
        1e-4,
        150_000,
        50_000,
        False,
    )
    grid = study.study("paper", "auto")
    assert len(grid) == 3 * 5 * 5 * 10 and {c.data for c in grid} == {
        "dsprites",
        "shapes3d",
        "mpi3d",
    }
    assert len({experiments.first_phase(c) for c in grid}) <= 3 * 5 * 10


def test_data_for_chapters():
    assert reproduce.data_of([], "rooms") == {
        "moe1991": "auto",
        "latent-opt": "rooms",
        "smoe-vae": "auto",
        "beta-vae": "rooms",
        "vlae": "auto",
    }
    assert reproduce.data_of([], "mnist")["beta-vae"] == "auto"
    with pytest.raises(
        ConfigError, match="beta-vae cannot use --data mnist; it needs images of 64x64"
    ):
        reproduce.data_of(["beta-vae"], "mnist")


def test_missing_official_set_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("GENMIX_DATA", str(tmp_path))
    with pytest.raises(DataError, match="dsprites"):
        experiments.train(replace(C, data="dsprites"), tmp_path / "runs")


def test_config_json_round_trip(trained):
    d = json.loads((trained[0] / "config.json").read_text())
    assert d["lambda_"] == 2 and configs.from_dict(d) == configs.load_config(trained[0])
    assert "lambda2-lambda_steps3" in trained[0].name


# ----- what is published


@pytest.mark.parametrize("name", ["sprites", "rooms", "arms"])
def test_published_models_do_what_the_table_says(name):
    "Half precision: on other test images within a few percent of the row that they come from."
    model = experiments.load_model(f"beta-vae-{name}")
    c = runs.pretrained(f"beta-vae-{name}").config
    df = runs.published("beta_vae", "study").value
    df = df[(df["data"] == name) & (df.penalty == c.penalty) & (df.second_beta == df.beta)]
    row = df[(df.beta == c.beta) & (df["lambda"] == c.lambda_) & (df.seed == c.seed)].iloc[0]
    v = beta_vae.view(model, load(name, "test", n=400, seed=0))
    assert v["recon"].mean() == pytest.approx(row.recon_test, rel=0.06)
    assert v["kl"].sum(1).mean() == pytest.approx(row.kl_test, rel=0.06)
    assert v["l2"].mean() == pytest.approx(row.l2_test, rel=0.08)


def test_published_summaries_are_the_study():
    "The summary files are made of the rows of the study."
    df = runs.published("beta_vae", "study").value
    for name in ("sprites", "rooms", "arms"):
        found = runs.published("beta_vae", f"summary_{name}").value.astype(str)
        again = study.summary(df[(df["data"] == name) & (df.precision == "bf16")]).astype(str)
        assert list(found["runs"]) == list(again["runs"]) and list(found.recon_test) == list(
            again.recon_test
        )
