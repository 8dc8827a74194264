"""Chapter 06: windows, exact sums, drawing, priors, the estimators, training and its controls,
and what impossible settings are told."""

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from genmix import configs, experiments, figures, reproduce, runs, vlae
from genmix.parts import messages
from genmix.cli import main
from genmix.configs import ConfigError, VLAEConfig
from genmix.data import load
from genmix.priors import MADE, ClassNormal, Flow, Normal, TwoLevel
from genmix.studies import vlae as study
from genmix.training import Batch, Noise, Rows, TrainingError, fit
from genmix.vae import VAEError, log_normal
from genmix.vlae import PixelCNN, Pixels, reaches, seen_by

C = VLAEConfig(
    n=100,
    steps=4,
    batch=32,
    width=8,
    channels=8,
    latent=4,
    hidden=16,
    samples=10,
    images=20,
    plots=False,
)
WINDOWS = [(1, 1), (3, 1), (1, 3), (3, 2), (5, 3), (7, 4), (11, 6)]


@pytest.fixture(scope="module")
def digits():
    return load("digits", "train", n=100)


@pytest.fixture(scope="module")
def by_class(tmp_path_factory):
    "A run with a prior for each class, and pictures."
    out = tmp_path_factory.mktemp("runs")
    return experiments.train(replace(C, prior="class-flow", plots=True), out)


def loosened(module, scale=0.3, seed=0):
    "Random weights where there were zeros, in double precision, so that everything matters."
    torch.manual_seed(seed)
    for p in module.double().parameters():
        p.data += scale * torch.randn_like(p)
    return module


# ----- the window


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_a_pixel_sees_its_window_and_nothing_else(window, layers):
    "By gradients, against paths through the layers counted by hand."
    reach, seen = reaches(window, layers), {(0, 0)}
    assert (
        1 + 2 * sum(d for d, _ in reach) == window[0] and 1 + sum(u for _, u in reach) == window[1]
    )
    for d, u in reversed(reach[1:]):
        seen = {
            (r - i, c + j)
            for r, c in seen
            for i in range(u + 1)
            for j in range(-d, d + 1)
            if i > 0 or j <= 0
        }
    d, u = reach[0]
    seen = {
        (r - i, c + j)
        for r, c in seen
        for i in range(u + 1)
        for j in range(-d, d + 1)
        if i > 0 or j < 0
    }
    found = seen_by(PixelCNN(2, window, layers, 4), 14, 17, at=(9, 8))
    assert {(r - 9, c - 8) for r, c in zip(*np.nonzero(found))} == seen


def test_a_change_of_a_later_pixel_changes_nothing_before_it():
    net, m = loosened(PixelCNN(3, (5, 3), 3, 6)), torch.randn(1, 3, 7, 6).double()
    x = torch.rand(1, 1, 7, 6).double()
    for r, c in ((0, 0), (3, 2), (6, 5)):
        y = x.clone()
        y[..., r, c] += 1
        same = (net(x, m) == net(y, m))[0, 0].flatten()
        assert same[: r * 6 + c + 1].all() and (same.all() == ((r, c) == (6, 5)))


@pytest.mark.parametrize("window", [(1, 1), (3, 1), (3, 2), (5, 3)])
@pytest.mark.parametrize("side, levels", [(3, 2), (2, 3), (2, 4)])
def test_probabilities_of_all_images_sum_to_one(window, side, levels):
    pixels = loosened(Pixels(PixelCNN(2, window, 2, 6, 1 if levels == 2 else levels), levels), 0.5)
    n = levels ** (side * side)
    x = torch.tensor(
        np.arange(n)[:, None] // levels ** np.arange(side * side) % levels / (levels - 1)
    ).view(n, 1, side, side)
    p = pixels.log_prob(x, 2 * torch.randn(1, 2, side, side).double().expand(n, -1, -1, -1)).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-9) and p.max() > 1.5 / n


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("levels", [2, 5])
def test_waves_draw_what_single_pixels_draw(window, levels):
    pixels = loosened(Pixels(PixelCNN(2, window, 3, 6, 1 if levels == 2 else levels), levels))
    m, u = torch.randn(4, 2, 7, 9).double(), torch.rand(4, 7, 9).double()
    x = torch.zeros(4, 1, 7, 9).double()
    for r in range(7):
        for c in range(9):
            out = pixels.predict(x, m)[:, :, r, c]
            many = (out.softmax(1).cumsum(1)[:, :-1] < u[:, r, c, None]).sum(1).double() / (
                levels - 1
            )
            x[:, 0, r, c] = u[:, r, c] < out[:, 0].sigmoid() if levels == 2 else many
    torch.testing.assert_close(pixels.net.sample(m, u), x)
    assert 0 < x.mean() < 1


def test_gray_levels_are_those_there_are():
    pixels = Pixels(PixelCNN(2, (3, 2), 2, 6, 4), 4)
    assert set(
        pixels.prepare(torch.linspace(0, 1, 50).view(1, 1, 5, 10), None)
        .unique()
        .mul(3)
        .round()
        .tolist()
    ) == {0, 1, 2, 3}
    found = pixels.prepare(torch.linspace(0, 1, 50).view(1, 1, 5, 10), None)
    assert (found - torch.linspace(0, 1, 50).view(1, 1, 5, 10)).abs().max() <= 1 / 6 + 1e-6


# ----- code length


@pytest.mark.parametrize("window", [(1, 1), (3, 2), None])
def test_code_length_splits_into_entropy_and_two_prices(window):
    world = messages.tiny_world(2, 3, 0.6, 0.9)
    entropy = -(world.p * np.log2(world.p)).sum()
    for a, rho in ((0, 1), (0.4, 1), (0.9, 0.3)):
        m = messages.code_length(world, a, window, rho)
        assert m["total"] == pytest.approx(entropy + m["mismatch"] + m["posterior"], abs=1e-9)
        assert m["mismatch"] > -1e-9 and m["posterior"] > -1e-9
        if window is None:
            assert m["mismatch"] == pytest.approx(0, abs=1e-9)
    assert messages.code_length(world, 0.9, None, 0.3)["posterior"] > 0.01


def test_tiny_world_by_hand():
    "Two pixels: four probabilities written out."
    world = messages.tiny_world(1, 2, 0.7, 0.8)
    by_hand = {
        (0, 0): 0.5 * 0.2 * (0.7 + 0.3 * 0.2) + 0.5 * 0.8 * (0.7 + 0.3 * 0.8),
        (1, 0): 0.5 * 0.8 * 0.3 * 0.2 + 0.5 * 0.2 * 0.3 * 0.8,
    }
    for x, p in by_hand.items():
        assert world.p[(world.x == x).all(1)].item() == pytest.approx(p)


# ----- priors


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("affine", [False, True])
def test_flow_inverts_and_its_determinant_is_autograds(steps, affine):
    flow = loosened(Flow(Normal(6), steps, 24, affine), 0.2)
    z = torch.randn(5, 6).double()
    eps, jac = flow.noise(z)
    torch.testing.assert_close(flow.code(eps), z, rtol=0, atol=1e-9)
    full = torch.autograd.functional.jacobian(lambda z: flow.noise(z)[0], z[0])
    assert torch.linalg.slogdet(full)[1].item() == pytest.approx(jac[0].sum().item(), abs=1e-9)
    assert (eps - z).abs().max() > 0.1 and (jac.abs().max() > 0.01) == affine
    single = flow.float()
    assert (single.code(single.noise(z.float())[0]) - z.float()).abs().max() < 1e-5


def test_made_sees_only_what_is_before():
    made = loosened(MADE(5, 64, True), 0.5)
    J = torch.autograd.functional.jacobian(lambda z: torch.stack(made(z)), torch.randn(5).double())
    assert (J.triu() == 0).all() and all(
        (J[k].diagonal(-1) != 0).all() and J[k, 4, 0] != 0 for k in (0, 1)
    )


@pytest.mark.parametrize(
    "prior",
    [
        Normal(3),
        ClassNormal(3, 4),
        TwoLevel(3, 2, 8),
        Flow(Normal(3), 3, 16, True),
        Flow(ClassNormal(3, 4), 2, 16, True),
    ],
    ids=lambda p: type(p).__name__ + str(p.K),
)
def test_kl_estimates_agree_and_samples_have_the_density(prior):
    """The prior's own KL against the plain estimate from draws; and samples against log p: the mean
    of its gradient over samples is 0."""
    loosened(prior, 0.1)
    L, y = prior.latent, torch.arange(4000) % 4 if prior.K else None
    mu, logvar = torch.randn(1, L).double(), 0.3 * torch.randn(1, L).double()
    z = mu + (0.5 * logvar).exp() * torch.randn(4000, L).double()
    own = prior.kl(z, mu.expand_as(z), logvar.expand_as(z), y).sum(1)
    plain = log_normal(z, mu, logvar) - prior.log_prob(z, y)
    gap = own - plain
    assert abs(gap.mean()) < 4 * gap.std() / 4000**0.5 + 1e-9
    torch.testing.assert_close(prior.terms(z, y).sum(1), prior.log_prob(z, y))
    drawn = (
        deepcopy(prior).float().sample(4000, Noise(1), y).double().requires_grad_()
    )  # Stein's identity
    score = torch.autograd.grad(prior.log_prob(drawn, y).sum(), drawn)[0]
    assert (score.mean(0).abs() < 5 * score.std(0) / 4000**0.5).all()


def test_class_prior_is_a_mixture():
    for prior in (ClassNormal(3, 4), Flow(ClassNormal(3, 4), 2, 16, True)):
        loosened(prior, 0.3)
        z = torch.randn(6, 3).double()
        joint = torch.stack(
            [prior.log_prob(z, torch.full((6,), k)) + prior.log_y()[k] for k in range(4)], 1
        )
        torch.testing.assert_close(prior.log_joint(z), joint)
        torch.testing.assert_close(prior.log_prob(z), joint.logsumexp(1))


# ----- the estimators


def test_bayes_and_nll_against_a_grid(digits):
    "Two latent variables: the integral over z is a sum."
    model = loosened(vlae.model_of(replace(C, prior="class-flow", latent=2), digits), 0.05).eval()
    x = (Rows(digits)(torch.arange(2)).x > 0.5).double()
    side = torch.linspace(-7, 7, 81).double()
    grid = torch.cartesian_prod(side, side)
    q = torch.zeros(2, 2).double(), torch.full((2, 2), 2 * math.log(1.7)).double()
    model.encoder.forward = lambda x: tuple(t[: len(x)] for t in q)
    with torch.no_grad():
        log_px = torch.stack(
            [model.likelihood.log_prob(one[None], model.outputs(grid)[:, None])[:, 0] for one in x]
        )
        exact = (log_px[:, :, None] + model.prior.log_joint(grid)).logsumexp(1) + 2 * math.log(
            side[1] - side[0]
        )
        joint, found = model.log_joint(x, 4000), model.log_prob(x, 4000, chunk=500)
    assert (
        found.value - exact.logsumexp(1)
    ).abs().max() < 5 * found.se.max() + 0.02 and found.se.max() < 0.3
    torch.testing.assert_close(joint, exact, rtol=0, atol=0.4)
    torch.testing.assert_close(joint.logsumexp(1), model.log_prob(x, 4000).value, rtol=0, atol=0.2)


def test_without_a_code_log_p_is_exact(digits):
    model = loosened(vlae.model_of(replace(C, prior="none"), digits), 0.05).eval()
    x = (Rows(digits)(torch.arange(3)).x > 0.5).double()
    with torch.no_grad():
        out = model.likelihood.net(x, model.decoder.map.expand(3, -1, -1, -1))
    exact = (
        -torch.nn.functional.binary_cross_entropy_with_logits(out, x, reduction="none")
        .flatten(1)
        .sum(1)
    )
    for M in (1, 3):
        torch.testing.assert_close(model.log_prob(x, M).value, exact)
    terms = model.loss(Batch(x, torch.zeros(3).long(), torch.zeros(3).long()), 0, Noise(0))
    assert terms["kl"] == 0 and terms["loss"].item() == pytest.approx(-exact.mean().item())


def test_loss_is_the_bound(digits):
    "Against the mean of log-weights drawn apart, for every prior."
    for prior in study.PRIORS:
        model = loosened(vlae.model_of(replace(C, prior=prior), digits), 0.02).eval()
        x, y = (Rows(digits)(torch.arange(8)).x > 0.5).double(), torch.arange(8) % 10
        with torch.no_grad():
            losses = torch.stack(
                [model.loss(Batch(x, y, y), 0, Noise(k))["loss"] for k in range(60)]
            )
            mu, logvar = model.encoder(x)
            z = mu + (0.5 * logvar).exp() * torch.randn(60, *mu.shape).double()
            log_pz = (
                model.prior.log_prob(z, y) + model.prior.log_y()[y]
                if model.prior.K
                else model.log_prior(z)
            )
            w = (
                model.likelihood.log_prob(x, model.outputs(z)) + log_pz - log_normal(z, mu, logvar)
            ).mean(1)
        assert losses.mean().item() == pytest.approx(
            -w.mean().item(), abs=5 * (losses.std() + w.std()).item() / 60**0.5 + 1e-6
        ), prior


# ----- training


def test_free_bits():
    model = vlae.model_of(replace(C, free_bits=2.0), load("digits", "train", n=20))
    kls = torch.tensor([0.5, 0.2, 0, 0], requires_grad=True)
    assert (
        model.cost(kls).item() == 2
        and torch.autograd.grad(model.cost(kls), kls)[0].abs().sum() == 0
    )
    model.free_bits = 0.0
    assert model.cost(torch.tensor([-0.5, 0.2])).item() == pytest.approx(
        -0.3
    )  # an estimate below 0 stays one
    model.free_bits, model.free = 0.3, "each"
    assert model.cost(kls).item() == pytest.approx(0.5 + 3 * 0.3)


def test_soft_weight_is_steered(digits):
    model = vlae.model_of(replace(C, free_bits=5.0, free="soft"), digits)
    for kl, expected in ((2.0, 1 / 1.1), (5.1, 1 / 1.1), (6.0, 1.0), (9.0, 1.0)):
        weight = model.gamma.item()
        assert model.cost(torch.tensor([kl])).item() == pytest.approx(weight * kl)
        assert model.gamma.item() == pytest.approx(expected)
    model.eval()
    model.cost(torch.tensor([1.0]))
    assert model.gamma.item() == pytest.approx(1)


@pytest.mark.parametrize("prior", ["class-flow", "two-level"])
def test_stopped_and_continued_is_the_same(prior, digits, tmp_path):
    c = replace(C, prior=prior, free_bits=5.0, free="soft", ema=0.9, warmup=3, steps=7)
    whole = vlae.model_of(c, digits)
    fit(whole, digits, c, progress=False)

    class Halt(Exception):
        pass

    part = vlae.model_of(c, digits)
    loss = part.loss

    def halting(batch, step, rng):
        if step == 4:
            raise Halt
        return loss(batch, step, rng)

    part.loss = halting
    with pytest.raises(Halt):
        fit(part, digits, c, folder=tmp_path, save_every=0, progress=False)
    again = vlae.model_of(c, digits)
    fit(again, digits, c, folder=tmp_path, progress=False)
    for (k, a), b in zip(whole.state_dict().items(), again.state_dict().values()):
        assert torch.equal(a, b), k
    assert whole.gamma < 1
    with pytest.raises(TrainingError, match="another run: prior is"):
        fit(
            vlae.model_of(replace(c, prior="gaussian"), digits),
            digits,
            replace(c, prior="gaussian"),
            folder=tmp_path,
            progress=False,
        )


def test_prior_learns_the_classes(digits):
    """On a labeled set the prior of classes ends with a lower KL given the label than without any
    training of the prior."""
    c = replace(C, prior="class", steps=60, lr=5e-3, ema=0.0)
    model = vlae.model_of(c, digits)
    batch = Rows(digits)(torch.arange(100))
    fit(model, digits, c, progress=False)
    with torch.no_grad():
        found, fresh = (
            model.loss(batch, 0, Noise(0)),
            vlae.model_of(c, digits).loss(batch, 0, Noise(0)),
        )
    assert found["loss"] < fresh["loss"] - 50


def test_fixed_tosses(monkeypatch, tmp_path, digits):
    monkeypatch.setenv("GENMIX_CACHE", str(tmp_path))
    a = experiments.tossed(digits)
    assert set(np.unique(a.x)) == {0, 255} and "not the published static set" in a.describe()
    assert abs(a.x.mean() - digits.x.mean()) < 1
    part = np.array([7, 3, 50])
    assert (
        experiments.tossed(digits.subset(part)).x == a.x[part]
    ).all()  # an image's tosses do not depend on the others
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 2 and (experiments.tossed(digits).x == a.x).all()
    c, images = experiments.load_images(replace(C, binarize="fixed"))
    assert (
        all(set(np.unique(d.x)) == {0, 255} for d in images)
        and not (experiments.tossed(digits, seed=1).x == a.x).all()
    )


# ----- what it can do, and what it cannot


def test_run_and_its_pictures(by_class):
    r = runs.read_result(by_class)["metrics"]
    assert {"log_p_test", "elbo_test", "kl_test", "accuracy_test", "bits_test"} <= set(r) and r[
        "elbo_test"
    ] <= r["log_p_test"] + 0.5
    names = {p.stem for p in (by_class / "figures").glob("*.png")}
    assert {
        "lossy",
        "samples",
        "traversal",
        "by_class",
        "curves",
        "samples-epoch-0001",
        "reconstructions-epoch-0001",
    } <= names
    s = runs.load_arrays(by_class / "figures.npz")
    assert (
        s["lossy"].shape == (40, 1, 28, 28)
        and s["by_class"].shape == (100, 1, 28, 28)
        and set(np.unique(s["samples"])) == {0, 255}
    )
    source, drawn = figures.read_run(by_class)
    assert source == "vlae" and {"lossy", "curves"} <= set(drawn)


def test_drawing_by_class_and_by_seed(by_class):
    model = experiments.load_model(by_class)
    x = model.sample(6, 3, y=7)
    assert (
        x.shape == (6, 1, 28, 28)
        and set(x.unique().tolist()) <= {0.0, 1.0}
        and torch.equal(x, model.sample(6, 3, y=7))
    )
    assert not torch.equal(x, model.sample(6, 4, y=7))
    z = torch.zeros(3, model.latent)
    assert torch.equal(*model.decode(z, 1, same=True)[:2]) and not torch.equal(
        *model.decode(z, 1)[:2]
    )
    for y in (10, -1):
        with pytest.raises(VAEError, match="10 classes"):
            model.sample(2, 0, y=y)


def test_sample_command(by_class, tmp_path, capsys):
    out = tmp_path / "seven.png"
    assert main(["sample", str(by_class), "--digit", "7", "--n", "12", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG") and str(out) in capsys.readouterr().out
    assert main(["sample", "vae-mnist", "--n", "5", "--out", str(out)]) == 0
    capsys.readouterr()
    for words, said in (
        (["vae-mnist", "--digit", "3"], "no prior for each class"),
        ([str(by_class), "--digit", "12"], "10 classes"),
        (["nothing-like-it"], "no published weights"),
        ([str(by_class), "--n", "0"], "1 to 1000"),
    ):
        assert main(["sample", *words, "--out", str(out)]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "how, said",
    [
        (dict(window=(4, 2)), "must be odd"),
        (dict(window=(3, 0)), "at least 1"),
        (dict(window=(3, 2, 1)), "2 whole numbers"),
        (dict(window="3x2"), "2 whole numbers"),
        (dict(channels=0), "window to 1 1"),
        (dict(levels=4, binarize="none"), "black and white"),
        (dict(channels=0, window=(1, 1), prior="none"), "prior other than none"),
        (dict(free="soft"), "free_bits"),
        (dict(prior="flows"), "prior must be"),
        (dict(levels=1), "at least 2"),
        (dict(free_bits=-1.0), "0 or above"),
    ],
)
def test_impossible_settings(how, said):
    with pytest.raises(ConfigError, match=said):
        VLAEConfig(**how)


def test_priors_without_classes_and_images_in_color(digits):
    one = replace(digits, classes=("all",), y=np.zeros_like(digits.y))
    for prior in ("class", "class-flow"):
        with pytest.raises(ConfigError, match="two classes"):
            vlae.model_of(replace(C, prior=prior), one)
    with pytest.raises(ConfigError, match="gray images"):
        vlae.VLAE(C, (3, 28, 28), 10)
    plain = vlae.model_of(C, digits)
    for f in (lambda: plain.sample(2, 0, y=1), lambda: plain.log_joint(torch.zeros(1, 1, 28, 28))):
        with pytest.raises(VAEError, match="knows no classes"):
            f()


def test_weights_of_another_prior(by_class, digits):
    with pytest.raises(runs.RunError, match="do not fit"):
        runs.load_weights(by_class).into(vlae.model_of(C, digits))


def test_window_on_the_command_line(capsys):
    from genmix.cli import parse

    c = parse("train vlae", ["--window", "7", "4", "--prior", "flow"]).settings
    assert (
        c.window == (7, 4)
        and configs.slug(c) == "digits-flow-window7x4-s0"
        and c == replace(configs.preset("quick", "vlae"), window=(7, 4), prior="flow")
    )
    assert main(["train", "vlae", "--window", "4", "2"]) == 2 and "odd" in capsys.readouterr().err
    assert experiments.values_of("vlae", ["window=7x4,1x1", "free=each"]) == {
        "window": [(7, 4), (1, 1)],
        "free": ["each"],
    }
    for words, said in (("window=7", "2 whole numbers"), ("window=axb", "such as 3x2")):
        with pytest.raises(ConfigError, match=said):
            experiments.values_of("vlae", [words])
    assert configs.from_dict(configs.to_dict(c)) == c


@pytest.mark.parametrize(
    "how",
    [
        dict(levels=4),
        dict(channels=0, window=(1, 1), prior="two-level", binarize="none"),
        dict(optimizer="adam", affine=True, prior="flow"),
        dict(net="residual"),
    ],
)
def test_variants_train(how, digits, tmp_path):
    folder = experiments.train(replace(C, **how), tmp_path)
    r = runs.read_result(folder)["metrics"]
    assert all(math.isfinite(v) for v in r.values() if isinstance(v, float))


def test_reproduce(tmp_path, capsys):
    report = reproduce.reproduce(["vlae"], preset="debug", out=tmp_path)
    text = report.with_name("report.md").read_text(encoding="utf-8")
    assert "bundled" in text and "### Priors" in text and "two-level" in text
    t = pd.read_csv(tmp_path / "tables" / "vlae-priors.csv")
    assert list(t.prior) == list(study.PRIORS) and t.KL[0] == 0 and t["paper: NLL"].isna().all()
    assert {p.stem for p in (tmp_path / "figures" / "vlae").glob("*.png")} == {
        "windows",
        "rates",
        "priors",
    }
    with pytest.raises(ConfigError, match="vlae cannot use --data vowels"):
        reproduce.reproduce(["vlae"], data="vowels", out=tmp_path)


# ----- what is published


def test_published_study_and_model():
    df, made = runs.published("vlae", "study")
    assert made["data"] and made["command"].count("genmix train vlae") == len(df)
    for which in study.PARTS:
        d = study.part(df, which)
        assert len(d) >= 3, which
    assert (
        set(study.part(df, "ablation").prior) == {"none", "gaussian", "flow"}
        and len(study.part(df, "windows")) == 5
    )
    assert set(study.part(df, "priors").prior) == {
        "gaussian",
        "flow",
        "class",
        "class-flow",
        "two-level",
    }
    codes = df[df.prior != "none"]
    assert (codes.elbo_test <= codes.log_p_test + 1e-6).all() and (
        (df.recon_test + df.kl_test + df.elbo_test).abs() < 0.01
    ).all()
    model = experiments.load_model("vlae-mnist-class")
    x, d = model.sample(4, 0, y=3), load("digits", "test", n=10)
    assert x.shape == (4, 1, 28, 28) and model.log_joint(Rows(d)(torch.arange(4)).x, 5).shape == (
        4,
        10,
    )


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, f in figures.FIGURES.items()
        if name.startswith("vlae-") and f.source == "published"
    ],
)
def test_published_figures_are_drawn(name, tmp_path):
    assert figures.draw([name], out=tmp_path)[0].stat().st_size > 5_000


def test_numbers_in_prose_are_those_of_the_study():
    "What the chapter's end and the README say, against the published table and the tiny world."
    import json
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent
    cells = json.loads((root / "nbs" / "06_vlae.ipynb").read_text(encoding="utf-8"))["cells"]
    said = next(
        s for s in ("".join(c["source"]) for c in cells) if s.startswith("## What we found")
    )
    readme = next(
        line
        for line in (root / "README.md").read_text(encoding="utf-8").splitlines()
        if "06_vlae.ipynb" in line and "What does a code keep" in line
    )
    df = runs.published("vlae", "study").value
    a, p, e = (study.part(df, which) for which in ("ablation", "priors", "earlier"))
    nll = -a.set_index("prior").log_p_test
    for text in (said, readme):
        assert all(f"{v:.1f}" in text for v in nll)
    assert all(f"{prior} {-v:.1f}" in said for prior, v in zip(p.prior, p.log_p_test))
    assert all(f"{v:.1%}" in said for v in p.accuracy_test.dropna())
    assert (
        f"{-e[e.steps == 469].elbo_test.mean():.1f}" in said
        and f"{-e[e.steps == e.steps.max()].elbo_test.iloc[0]:.1f} after thirty" in said
    )
    assert all(f"{v:.1f}" in said for v in study.part(df, "windows").kl_test)
    world, grid = messages.tiny_world(), np.linspace(0, 1, 61) ** 2 * 4
    best = [
        max(
            messages.code_length(world, 0, w)["total"] - messages.code_length(world, a, w)["total"]
            for a in grid
        )
        for w in ((1, 1), (3, 1), (3, 2))
    ]
    assert (
        f"{best[0]:.1f}, {best[1]:.2f}".replace(" 0.", " .")
        + f", {best[2]:.2f}".replace(" 0.", " .")
        in said
    )
