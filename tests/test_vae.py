"Chapter 02: the ELBO, likelihoods that integrate to 1, networks, log p(x) against exact answers."

import math
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions as D
from torch import nn

from genmix import data, training, vae
from genmix.parts import nets
from genmix.configs import ConfigError, VAEConfig, preset
from genmix.studies import vae as study
from genmix.studies.vae import measure
from genmix.training import Batch, Noise
from genmix.vae import (
    VAE,
    Bernoulli,
    ContinuousBernoulli,
    Gaussian,
    VAEError,
    importance,
    kl_normal,
    log_normal,
    vae_of,
)

torch.set_num_threads(1)

F64 = torch.float64
SHAPES = [(1, 28, 28), (1, 32, 32), (3, 32, 32), (1, 64, 64), (3, 64, 64)]


def config(**kwargs):
    return replace(
        preset("debug", "vae"),
        **(dict(latent=4, width=4, batch=32, epochs=2, n=0, samples=10) | kwargs),
    )


def batch(x):
    return Batch(x, torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x)))


def images(B=6, shape=(1, 28, 28), seed=0):
    return torch.rand(B, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train").subset(range(300)), data.load("digits", "test").subset(
        range(60)
    )


# ------------------------------------------------- a model for which everything is known
class Known:
    "A linear decoder: log p(x), and a posterior with independent latents if W's columns allow."

    def __init__(self, L=3, side=5, sigma=0.4, seed=0, orthogonal=True):
        rng = np.random.default_rng(seed)
        n = side * side
        W = (
            np.linalg.qr(rng.normal(size=(n, L)))[0]
            if orthogonal
            else rng.normal(size=(n, L)) / n**0.5
        )
        self.W, self.b, self.sigma = (
            torch.from_numpy(W * rng.uniform(1, 3, L)),
            torch.from_numpy(rng.normal(size=n)),
            sigma,
        )
        self.model = VAE(
            None, nn.Sequential(nn.Linear(L, n), nn.Unflatten(1, (1, side, side))), Gaussian(sigma)
        ).double()
        self.model.decoder[0].weight.data, self.model.decoder[0].bias.data = (
            self.W.clone(),
            self.b.clone(),
        )
        self.marginal = D.MultivariateNormal(
            self.b, self.W @ self.W.T + sigma**2 * torch.eye(n, dtype=F64)
        )
        z = torch.from_numpy(rng.normal(size=(150, L)))
        self.y = z @ self.W.T + self.b + sigma * torch.from_numpy(rng.normal(size=(150, n)))
        self.x = ((self.y + 1) / 2).view(150, 1, side, side)
        self.exact = self.marginal.log_prob(self.y)  # [B]

    def posterior(self):
        precision = 1 + (self.W**2).sum(0) / self.sigma**2
        mu = (self.y - self.b) @ self.W / self.sigma**2 / precision
        return mu, (-precision.log()).expand_as(mu)

    def wrong(self, shift=0.05, wider=0.5):
        mu, logvar = self.posterior()
        return mu + shift, logvar + wider


def test_with_the_posterior_one_sample_is_exact_and_all_weights_agree():
    k = Known()
    one, many = (
        k.model.log_prob(k.x, 1, q=k.posterior()),
        k.model.log_prob(k.x, 1000, q=k.posterior()),
    )
    assert torch.allclose(one.value, k.exact, atol=1e-5) and torch.allclose(
        many.value, k.exact, atol=1e-5
    )
    assert torch.allclose(many.elbo, k.exact, atol=1e-5)  # the bound is tight
    assert many.ess.min() > 999.99 and many.se.max() < 1e-6
    assert one.se.isnan().all() and torch.allclose(one.ess, torch.ones(150, dtype=F64))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_a_wrong_q_the_estimate_is_within_three_standard_errors(seed):
    k = Known(seed=seed)
    est = k.model.log_prob(k.x, 3000, Noise(seed), q=k.wrong())
    off = (est.value - k.exact) / est.se
    assert (
        (off.abs() < 3).double().mean() > 0.97 and abs(off.mean()) < 0.35 and 0.8 < off.std() < 1.25
    )
    assert est.elbo.mean() < k.exact.mean() - 0.3 and 0.2 < est.ess.mean() / 3000 < 0.9


def test_a_diagonal_q_for_an_entangled_posterior_is_right_too():
    k = Known(orthogonal=False, seed=3)
    Lam = torch.eye(3, dtype=F64) + k.W.T @ k.W / k.sigma**2
    mu = torch.linalg.solve(Lam, k.W.T @ (k.y - k.b).T / k.sigma**2).T
    est = k.model.log_prob(k.x, 3000, q=(mu, torch.linalg.inv(Lam).diagonal().log().expand_as(mu)))
    assert ((est.value - k.exact).abs() < 3 * est.se + 1e-6).double().mean() > 0.97


def test_the_bound_tightens_with_M_up_to_the_exact_value():
    k = Known()
    x, q, R = k.x[:1].expand(3000, 1, 5, 5), [t[:1].expand(3000, 3) for t in k.wrong()], 3000
    values = [k.model.log_prob(x, M, Noise(M), q=q).value for M in (1, 2, 4, 16, 64, 256)]
    means, ses = [v.mean().item() for v in values], [v.std().item() / R**0.5 for v in values]
    assert (
        all(b - a > -3 * (s + t) for a, b, s, t in zip(means, means[1:], ses, ses[1:]))
        and means[0] < means[1] < means[2] < means[-1]
    )
    assert (
        all(m < k.exact[0] + 3 * s for m, s in zip(means, ses))
        and abs(means[-1] - k.exact[0]) < 3 * ses[-1] + 0.005
    )
    lost = D.kl_divergence(
        D.Normal(k.wrong()[0][0], (0.5 * k.wrong()[1][0]).exp()),
        D.Normal(k.posterior()[0][0], (0.5 * k.posterior()[1][0]).exp()),
    ).sum()
    assert (
        abs(k.exact[0] - means[0] - lost) < 4 * ses[0]
    )  # M = 1 is the ELBO, and misses KL(q || posterior)


def test_the_standard_error_is_what_repetitions_scatter_by():
    k = Known()
    est = k.model.log_prob(
        k.x[:1].expand(1000, 1, 5, 5), 200, Noise(8), q=[t[:1].expand(1000, 3) for t in k.wrong()]
    )
    assert abs(est.value.std() / est.se.mean() - 1) < 0.12


# ---------------------------------------------------------------- importance weights
def test_importance_by_hand():
    w = torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]], dtype=F64)
    est = importance(w.log())
    assert torch.allclose(est.value, w.mean(0).log()) and torch.allclose(est.elbo, w.log().mean(0))
    assert torch.allclose(est.ess, w.sum(0) ** 2 / (w**2).sum(0)) and est.ess[1] == 3
    assert torch.allclose(est.se, w.std(0) / w.mean(0) / 3**0.5, atol=1e-7)
    assert importance(torch.zeros(1, 2)).se.isnan().all()


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=30), st.floats(-1e4, 1e4))
@settings(max_examples=60, deadline=None)
def test_importance_always_lies_between_the_elbo_and_the_largest_weight(logw, shift):
    w = torch.tensor(logw, dtype=F64)[:, None]
    est, moved = importance(w), importance(w + shift)
    assert est.elbo <= est.value + 1e-9 and w.min() - 1e-9 <= est.value <= w.max() + 1e-9
    assert 1 - 1e-9 <= est.ess <= len(logw) + 1e-9 and 0 <= est.se < len(logw) ** 0.5
    assert torch.allclose(moved.value, est.value + shift, atol=1e-6) and torch.allclose(
        moved.ess, est.ess, rtol=1e-5
    )


def test_importance_wants_a_table():
    for bad in (torch.zeros(3), torch.zeros(0, 3)):
        with pytest.raises(VAEError, match=r"\[M, B\]"):
            importance(bad)


# ------------------------------------------------- chunks, memory, arguments of log_prob
def test_chunks_change_nothing_but_rounding():
    m, x = vae_of(config(), (1, 28, 28)).eval(), images(7)
    whole = m.log_prob(x, 50, Noise(3), chunk=10_000)
    for chunk in (1, 3, 7, 16, 200):
        part = m.log_prob(x, 50, Noise(3), chunk=chunk)
        assert all(torch.allclose(a, b, atol=1e-3, rtol=1e-4) for a, b in zip(whole, part)), chunk
    k = Known()
    a, b = (k.model.log_prob(k.x, 100, Noise(1), q=k.wrong(), chunk=c) for c in (11, 10**6))
    assert all(torch.allclose(s, t, atol=1e-9) for s, t in zip(a, b))


def test_many_blocks_of_noise_add_up(monkeypatch):
    "Sums over blocks must equal one importance() over all log-weights."
    k, seen, plain = Known(), [], vae.log_weights
    monkeypatch.setattr(vae, "log_weights", lambda *a: seen.append(plain(*a)) or seen[-1])
    M = 2**20 // (150 * 3) * 2 + 17  # two whole blocks and a rest
    est = k.model.log_prob(k.x, M, q=k.wrong())
    assert [len(s) for s in seen] == [2**20 // 450] * 2 + [17]
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(est, importance(torch.cat(seen))))


@pytest.mark.parametrize("shape, most", [((1, 28, 28), 40), ((3, 64, 64), 2), ((1, 5, 5), 40)])
def test_large_images_are_decoded_fewer_at_a_time(shape, most):
    m, seen = vae_of(config(), shape).eval(), []
    m.decoder.register_forward_hook(lambda net, args, out: seen.append(len(out)))
    m.encoder.register_forward_hook(lambda net, args, out: seen.append(len(out[0])))
    m.log_prob(images(5, shape), 30, chunk=40)
    assert max(seen) <= most and sum(seen) == 5 * 30 + 5


def test_log_prob_depends_on_its_generator_and_leaves_the_model_as_it_was():
    m, x = vae_of(config(), (1, 28, 28)), images(3)
    m.encoder.net.add_module("dropout", nn.Dropout(0.5))
    m.decoder.eval()
    state, flags = torch.get_rng_state(), [s.training for s in m.modules()]
    a, b, c = m.log_prob(x, 5), m.log_prob(x, 5), m.log_prob(x, 5, Noise(1))
    assert torch.equal(a.value, b.value) and not torch.equal(a.value, c.value)  # and no dropout
    assert (
        [s.training for s in m.modules()] == flags
        and torch.equal(state, torch.get_rng_state())
        and not a.value.requires_grad
    )


def test_log_prob_says_what_is_wrong():
    m, x = vae_of(config(), (1, 28, 28)).eval(), images(3)
    ok = torch.zeros(3, 4)
    for f, why in [
        (lambda: m.log_prob(x, 0), "M must be a whole number, at least 1, got 0"),
        (lambda: m.log_prob(x, 2.5), "M must be a whole number"),
        (lambda: m.log_prob(x, True), "M must be a whole number"),
        (lambda: m.log_prob(x, 5, chunk=0), "chunk must be"),
        (lambda: m.log_prob(x[0], 5), r"\[B, C, H, W\]"),
        (lambda: m.log_prob(x[:0], 5), "at least 1"),
        (lambda: m.log_prob(x.numpy(), 5), "tensor"),
        (lambda: m.log_prob((255 * x).byte(), 5), "uint8; divide bytes by 255"),
        (lambda: m.log_prob(255 * x, 5), "from 0 to 1, got"),
        (lambda: m.log_prob(x / 0, 5), "NaN or infinite"),
        (lambda: m.log_prob(x, 5, q=(ok[:2], ok[:2])), r"shape \[3, 4\] each, got \[2, 4\]"),
        (lambda: m.log_prob(x, 5, q=(ok, ok[:, :3])), r"and \[3, 3\]"),
        (lambda: m.log_prob(x, 5, q=(ok, ok - math.inf)), "variances above 0"),
        (
            lambda: m.log_prob(images(3, (1, 32, 32)), 5, q=(ok, ok)),
            "the images are 1x32x32, and this model draws 1x28x28",
        ),
    ]:
        with pytest.raises(VAEError, match=why):
            f()
    assert issubclass(VAEError, ValueError)


# ---------------------------------------------------------------- KL, reparameterization
@given(st.floats(-5, 5), st.floats(-6, 4))
@settings(max_examples=60, deadline=None)
def test_kl_is_that_of_torch_and_never_negative(mu, logvar):
    mu, logvar = torch.tensor([[mu]], dtype=F64), torch.tensor([[logvar]], dtype=F64)
    expected = D.kl_divergence(
        D.Normal(mu, (logvar / 2).exp()), D.Normal(torch.zeros(1, 1, dtype=F64), 1.0)
    )
    assert (
        torch.allclose(kl_normal(mu, logvar), expected, atol=1e-9)
        and kl_normal(mu, logvar) > -1e-12
    )


def test_kl_is_that_of_many_samples():
    mu, logvar = torch.tensor([[0.7, -1.2]], dtype=F64), torch.tensor([[-0.5, 0.8]], dtype=F64)
    z = vae.reparameterize(mu, logvar, Noise(1), 200_000)[:, 0]
    terms = log_normal(z, mu, logvar) - log_normal(z)
    assert abs(terms.mean() - kl_normal(mu, logvar).sum()) < 3 * terms.std() / len(terms) ** 0.5


def test_log_normal_is_torchs():
    z, mu, logvar = (Noise(k).normal(3, 5, 2) for k in range(3))
    assert torch.allclose(log_normal(z), D.Normal(0.0, 1.0).log_prob(z).sum(-1), atol=1e-5)
    assert torch.allclose(
        log_normal(z, mu, logvar), D.Normal(mu, (logvar / 2).exp()).log_prob(z).sum(-1), atol=1e-4
    )


def test_reparameterized_samples_and_their_slices():
    mu, logvar = torch.tensor([[3.0, 0.0]] * 4), torch.tensor([[0.0, -2.0]] * 4)
    z = vae.reparameterize(mu, logvar, Noise(0), S=30_000)
    assert z.shape == (30_000, 4, 2) and torch.allclose(z.mean((0, 1)), mu[0], atol=0.02)
    assert torch.allclose(z.flatten(0, 1).var(0), logvar[0].exp(), atol=0.02)
    part = vae.reparameterize(
        mu[1:3], logvar[1:3], Noise(0, rows=(1, 3), total=4), S=7
    )  # a process draws its rows of the batch's noise
    assert torch.equal(part, vae.reparameterize(mu, logvar, Noise(0), S=7)[:, 1:3])


# ---------------------------------------------------------------- likelihoods
def test_bernoulli_sums_to_one_and_is_torchs():
    out = 3 * Noise(0).normal(1, 1, 2, 2)
    every = (
        torch.tensor([[(b >> k) & 1 for k in range(4)] for b in range(16)])
        .float()
        .view(16, 1, 2, 2)
    )
    lp = Bernoulli().log_prob(every, out.expand(16, 1, 2, 2))
    assert torch.allclose(lp.exp().sum(), torch.tensor(1.0), atol=1e-5)
    assert torch.allclose(lp, D.Bernoulli(logits=out).log_prob(every).flatten(1).sum(1), atol=1e-5)


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0])
def test_gaussian_is_torchs_integrates_to_one_and_has_its_constant(sigma, learn):
    g, x, out = Gaussian(sigma, learn), images(4), Noise(0).normal(4, 1, 28, 28)
    expected = D.Normal(out.double(), sigma).log_prob(2 * x.double() - 1).flatten(1).sum(1)
    assert torch.allclose(g.log_prob(g.prepare(x, None), out).double(), expected, rtol=1e-5)
    assert math.isclose(
        g.log_prob(out, out)[0].item(),
        -392 * math.log(2 * math.pi * sigma**2),
        rel_tol=1e-5,
        abs_tol=1e-3,
    )
    grid = torch.linspace(-8 * sigma, 8 * sigma, 2001)
    density = g.log_prob(grid.view(-1, 1, 1, 1), torch.zeros(2001, 1, 1, 1)).exp()
    assert math.isclose(torch.trapezoid(density, grid).item(), 1, abs_tol=1e-4)
    assert len(list(g.parameters())) == learn and "log_sigma" in g.state_dict()


def test_the_constant_of_the_earlier_project():
    z = torch.zeros(1, 1, 28, 28)
    assert round(Gaussian(0.4).log_prob(z, z).item(), 3) == -2.076


def test_learned_sigma_is_best_at_the_root_mean_squared_error():
    x, out = images(5), Noise(0).normal(5, 1, 28, 28)
    rmse = (2 * x - 1 - out).square().mean().sqrt().item()
    slopes = []
    for s in (0.9 * rmse, rmse, 1.1 * rmse):
        g = Gaussian(s, learn=True)
        g.log_prob(g.prepare(x, None), out).mean().backward()
        slopes.append(g.log_sigma.grad.item())
    assert slopes[0] > 50 and abs(slopes[1]) < 0.05 and slopes[2] < -50


@pytest.mark.parametrize("sigma", [0, -1, math.inf, math.nan])
def test_sigma_must_be_possible(sigma):
    with pytest.raises(VAEError, match="sigma must be a finite number above 0"):
        Gaussian(sigma)


def cb_exact(x, a):
    if abs(a) < 1e-3:
        return a * (x - 0.5) - a * a / 24, x - 0.5 - a / 12
    h = abs(a) / 2
    return a * (x - 0.5) - (
        h + math.log1p(-math.exp(-2 * h)) - math.log(2 * h)
    ), x - 0.5 - 0.5 / math.tanh(a / 2) + 1 / a


@given(
    st.floats(0, 1),
    st.one_of(
        st.floats(-200, 200),
        st.sampled_from([0.0, 1e-4, -1e-4, 1e-12, 0.999999, 1.0, 1.000001, 50.0, -50.0, 1e4]),
    ),
)
@settings(max_examples=200, deadline=None)
def test_continuous_bernoulli_value_and_slope_everywhere(x, a):
    t = torch.tensor(a, dtype=F64, requires_grad=True)
    v = (
        ContinuousBernoulli()
        .log_prob(torch.full((1, 1, 1, 1), x, dtype=F64), t.view(1, 1, 1, 1))
        .sum()
    )
    v.backward()
    value, slope = cb_exact(x, a)
    assert math.isclose(v.item(), value, rel_tol=1e-9, abs_tol=1e-7) and math.isclose(
        t.grad.item(), slope, abs_tol=1e-7
    )


def test_continuous_bernoulli_in_single_precision_where_others_break():
    for a in (0.0, 1e-4, -1e-4, 16.0, 50.0, -50.0):
        for x in (0.0, 0.3, 1.0):
            t = torch.tensor(a, requires_grad=True)
            v = (
                ContinuousBernoulli()
                .log_prob(torch.full((1, 1, 1, 1), x), t.view(1, 1, 1, 1))
                .sum()
            )
            v.backward()
            value, slope = cb_exact(x, a)
            assert abs(v.item() - value) < 1e-5 and abs(t.grad.item() - slope) < 2e-6, (a, x)


def test_continuous_bernoulli_integrates_to_one_and_has_its_mean():
    u = torch.linspace(0, 1, 20_001, dtype=F64)
    a = torch.tensor([-60.0, -8.0, -1.0, -1e-3, 0.0, 0.7, 5.0, 40.0], dtype=F64)
    cb = ContinuousBernoulli()
    p = cb.log_prob(u.view(-1, 1, 1, 1, 1), a.view(-1, 1, 1, 1).expand(20_001, 8, 1, 1, 1)).exp()
    assert torch.allclose(torch.trapezoid(p, u, dim=0), torch.ones(8, dtype=F64), atol=1e-5)
    assert torch.allclose(torch.trapezoid(p * u[:, None], u, dim=0), cb.mean(a), atol=1e-5)
    a = torch.tensor(2.5, dtype=F64)  # where torch's clamp does not bite
    ours = cb.log_prob(u[::100, None, None, None], a.expand(201, 1, 1, 1))
    assert torch.allclose(ours, D.ContinuousBernoulli(logits=a).log_prob(u[::100]), atol=1e-6)


def test_tosses_are_fair_and_black_and_white_images_stay():
    b, gray = Bernoulli(), torch.full((1, 1, 300, 300), 0.3)
    x = b.prepare(gray, Noise(0))
    assert (
        set(x.unique().tolist()) == {0.0, 1.0} and abs(x.mean() - 0.3) < 4 * (0.21 / 90_000) ** 0.5
    )
    assert torch.equal(b.prepare(x, Noise(1)), x) and not torch.equal(b.prepare(gray, Noise(1)), x)
    assert torch.equal(Bernoulli(binarize=False).prepare(gray, None), gray)
    never = SimpleNamespace(
        uniform=lambda *s: torch.zeros(s)
    )  # the smallest number that can be drawn
    assert torch.equal(b.prepare(torch.zeros(1, 1, 2, 2), never), torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian(), ContinuousBernoulli()])
def test_likelihoods_take_leading_dimensions_and_sum_over_pixels(likelihood):
    x, out = likelihood.prepare(images(4), Noise(0)), Noise(1).normal(5, 4, 1, 28, 28)
    lp = likelihood.log_prob(x, out)
    assert lp.shape == (5, 4) and torch.allclose(lp[2], likelihood.log_prob(x, out[2]), rtol=1e-5)
    wide = likelihood.log_prob(
        torch.cat([x, x], 3), torch.cat([out, out], 4)
    )  # twice the pixels, twice the nats
    assert torch.allclose(wide, 2 * lp, rtol=1e-4)
    mean = likelihood.mean(out)
    assert mean.shape == out.shape and 0 <= mean.min() and mean.max() <= 1


# ---------------------------------------------------------------- the loss
def by_hand(model, x, noise, beta=1.0):
    total = 0.0
    for xb, eps in zip(x, noise):
        mu, logvar = model.encoder(xb[None])
        q = D.Normal(mu, (logvar / 2).exp())
        logits = model.decoder(mu + q.stddev * eps)
        total = (
            total
            + beta * D.kl_divergence(q, D.Normal(0.0, 1.0)).sum()
            - D.Bernoulli(logits=logits).log_prob(xb[None]).sum()
        )
    return total / len(x)


def gradient(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_the_loss_is_the_negative_elbo_in_value_and_gradient(beta):
    m, x = vae_of(config(beta=beta), (1, 28, 28)), images(5)
    rng = Noise(2)
    tossed, noise = m.likelihood.prepare(x, rng), rng.normal(5, 4)
    terms, hand = m.loss(batch(x), 0, Noise(2)), by_hand(m, tossed, noise, beta)
    assert torch.allclose(terms["loss"], hand, rtol=1e-5)
    assert torch.allclose(terms["loss"], terms["recon"] + beta * terms["kl"], rtol=1e-5)
    assert torch.allclose(gradient(m, terms["loss"]), gradient(m, hand), rtol=1e-3, atol=1e-4)
    assert set(terms) == {"loss", "recon", "kl"} and all(v.ndim == 0 for v in terms.values())


def test_a_batch_seen_twice_has_the_same_loss():
    m, x = vae_of(config(likelihood="gaussian"), (1, 28, 28)), images(4)
    once, twice = (
        m.loss(batch(t), 0, SimpleNamespace(normal=lambda *s, dim=0: torch.zeros(*s)))["loss"]
        for t in (x, torch.cat([x, x]))
    )
    assert torch.allclose(once, twice, rtol=1e-6)


def test_means_over_pixels_are_an_undeclared_beta():
    m, x = vae_of(config(), (1, 28, 28)), images(5)
    rng = Noise(2)
    tossed, noise = m.likelihood.prepare(x, rng), rng.normal(5, 4)
    mu, logvar = m.encoder(tossed)
    bce = nn.functional.binary_cross_entropy_with_logits(
        m.decoder(mu + (logvar / 2).exp() * noise), tossed
    )
    g = gradient(m, 784 * (bce + kl_normal(mu, logvar).mean()))
    m.beta = 784 / 4
    assert torch.allclose(
        g, gradient(m, m.loss(batch(x), 0, Noise(2))["loss"]), rtol=1e-3, atol=1e-3
    )


def test_warm_up_grows_from_0_and_only_while_training():
    m, b = vae_of(config(warmup=10, beta=3.0), (1, 28, 28)).train(), batch(images(4))

    def weight(step):
        t = m.loss(b, step, Noise(0))
        return ((t["loss"] - t["recon"]) / t["kl"]).item()

    # a KL of 0.01 nats beside a reconstruction of 500 leaves few digits: make it large
    m.encoder.net[-1].bias.data += 3.0
    assert [round(weight(s), 2) for s in (0, 1, 5, 10, 1000)] == [0.0, 0.3, 1.5, 3.0, 3.0]
    m.eval()
    assert round(weight(0), 2) == 3.0


def test_free_bits_floor_every_latent_on_average_over_the_batch():
    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu = nn.Parameter(torch.tensor([[0.1, 0.0, 1.0], [0.3, 2.0, 1.0]]))

        def forward(self, x):
            return self.mu, torch.zeros_like(self.mu)

    m = vae_of(config(latent=3, free_bits=0.5), (1, 28, 28))
    m.encoder = Told()
    t = m.loss(batch(images(2)), 0, Noise(0))
    kl = kl_normal(m.encoder.mu, torch.zeros(2, 3)).mean(0)  # .025, 1, .5
    paid = t["loss"] - t["recon"]
    assert math.isclose(paid.item(), 0.5 + 1.0 + 0.5, rel_tol=1e-3) and torch.allclose(
        t["kl"], kl.sum()
    )
    (g,) = torch.autograd.grad(paid, m.encoder.mu)
    assert torch.equal(g[:, 0], torch.zeros(2)) and torch.allclose(
        g[:, 1], torch.tensor([0.0, 1.0])
    )
    m.free_bits = 0.0
    t = m.loss(batch(images(2)), 0, Noise(0))
    assert math.isclose((t["loss"] - t["recon"]).item(), kl.sum().item(), rel_tol=1e-3)


def test_noise_comes_from_the_generator_alone():
    m, b = vae_of(config(), (1, 28, 28)), batch(images(4))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    a, again, other = (m.loss(b, 0, Noise(s))["loss"].item() for s in (3, 3, 4))
    assert a == again != other and torch.equal(state, torch.get_rng_state())
    assert torch.equal(m.sample(3, Noise(1)), m.sample(3, Noise(1))) and m.sample(
        3, Noise(1)
    ).shape == (3, 1, 28, 28)
    assert torch.equal(m.encode(b.x)[0], m.encode(b.x)[0])


def test_in_16_bits_the_terms_are_summed_in_32():
    m, b = vae_of(config(), (1, 28, 28)), batch(images(4))
    exact = m.loss(b, 0, Noise(0))["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        t = m.loss(b, 0, Noise(0))
    assert all(v.dtype == torch.float32 for v in t.values()) and abs(t["loss"] / exact - 1) < 0.01


# ---------------------------------------------------------------- networks
@pytest.mark.parametrize("net", ["conv", "residual"])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 15, 33), (3, 29, 31), (1, 1, 1), (2, 3, 100)])
def test_there_and_back(net, shape):
    E, Dec = vae.NETS[net]
    e, d = E(shape, 5, 4), Dec(shape, 5, 4)
    mu, logvar = e(torch.rand(2, *shape))
    assert mu.shape == logvar.shape == (2, 5) and d(mu).shape == (2, *shape)


@given(
    st.sampled_from(["conv", "residual"]), st.integers(1, 3), st.integers(1, 70), st.integers(1, 70)
)
@settings(max_examples=25, deadline=None)
def test_any_size_there_and_back(net, C, H, W):
    m = vae_of(config(net=net, width=2, likelihood="gaussian"), (C, H, W))
    assert m.reconstruct(torch.rand(1, C, H, W)).shape == (1, C, H, W)


def conv(a, b, k=3):
    return a * b * k * k + b


def linear(a, b):
    return a * b + b


@pytest.mark.parametrize(
    "net, encoder, decoder",
    [
        (
            "conv",
            conv(1, 32) + conv(32, 64) + linear(3136, 256) + linear(256, 32),
            linear(16, 256) + linear(256, 3136) + conv(64, 32) + conv(32, 1),
        ),
        (
            "residual",
            conv(1, 16)
            + 2 * conv(16, 16)
            + conv(16, 32)
            + conv(32, 32)
            + conv(16, 32, 1)
            + 2 * conv(32, 32)
            + linear(1568, 256)
            + linear(256, 32),
            linear(16, 256)
            + linear(256, 1568)
            + 2 * conv(32, 32)
            + conv(32, 16, 4)
            + 2 * conv(16, 16)
            + conv(16, 1, 4),
        ),
        (
            "bottleneck",
            conv(1, 32) + conv(32, 64) + conv(64, 128) + conv(128, 128, 2) + linear(128, 32),
            linear(16, 128) + conv(128, 128, 2) + conv(128, 64) + conv(64, 32) + conv(32, 1),
        ),
    ],
)
def test_parameter_counts_for_28_pixels(net, encoder, decoder):
    E, Dec = vae.NETS[net]
    assert [
        sum(p.numel() for p in m.parameters()) for m in (E((1, 28, 28), 16), Dec((1, 28, 28), 16))
    ] == [encoder, decoder]


def test_networks_stay_small():
    for net in ("conv", "residual"):
        for shape in SHAPES:
            assert (
                sum(p.numel() for f in vae.NETS[net] for p in f(shape, 32).parameters()) < 2.5e6
            ), (net, shape)


def test_how_often_images_are_halved():
    convs = {
        n: sum(isinstance(m, nn.Conv2d) for m in vae.ConvEncoder((1, n, n), 4).net)
        for n in (8, 15, 28, 32, 64, 128)
    }
    assert convs == {8: 1, 15: 1, 28: 2, 32: 2, 64: 3, 128: 4}
    assert (
        vae.halves(28) == [28, 14, 7]
        and vae.halves(28, 3) == [28, 14, 7, 4]
        and vae.halves(64) == [64, 32, 16, 8]
    )
    assert vae.ConvDecoder((1, 28, 28), 4, layers=3)(torch.zeros(1, 4)).shape == (1, 1, 28, 28)


def test_the_bottleneck_says_what_it_cannot_do():
    d = SimpleNamespace(x=np.zeros((2, 3, 64, 64), np.uint8))
    with pytest.raises(
        ConfigError,
        match="net bottleneck draws 28x28 images only, and these are 3x64x64; "
        "net conv and residual fit any size",
    ):
        vae.model_of(config(net="bottleneck"), d)
    with pytest.raises(ConfigError, match="at least 23x23"):
        nets.BottleneckEncoder((1, 22, 40), 4)
    assert nets.BottleneckEncoder((1, 23, 23), 4)(torch.rand(1, 1, 23, 23))[0].shape == (1, 4)
    assert vae_of(config(net="bottleneck"), (3, 28, 28)).reconstruct(
        images(2, (3, 28, 28))
    ).shape == (2, 3, 28, 28)
    for bad in ((28, 28), (1, 0, 28), "abc", None):
        with pytest.raises(ConfigError, match=r"\(C, H, W\)"):
            vae_of(config(), bad)


def test_weights_follow_from_the_seed_and_the_global_generator_stays():
    state = torch.get_rng_state()
    a, b, c = (
        torch.cat([p.flatten() for p in vae_of(config(seed=s), (1, 28, 28)).parameters()])
        for s in (0, 0, 1)
    )
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(state, torch.get_rng_state())


def test_settings_reach_the_model():
    for name, cls in {
        "bernoulli": Bernoulli,
        "gaussian": Gaussian,
        "learned-gaussian": Gaussian,
        "continuous-bernoulli": ContinuousBernoulli,
    }.items():
        m = vae_of(
            config(likelihood=name, sigma=0.3, beta=2.0, warmup=7, free_bits=0.1, latent=9),
            (1, 28, 28),
        )
        assert type(m.likelihood) is cls and (m.beta, m.warmup, m.free_bits, m.latent) == (
            2.0,
            7,
            0.1,
            9,
        )
        assert any("log_sigma" in k for k, _ in m.named_parameters()) == (
            name == "learned-gaussian"
        )
        if cls is Gaussian:
            assert math.isclose(m.likelihood.log_sigma.exp().item(), 0.3, rel_tol=1e-6)


# ---------------------------------------------------------------- collapse, codes
def test_active_units_are_those_whose_mean_moves():
    mu = torch.stack(
        [
            torch.linspace(-1, 1, 40),
            torch.full((40,), 5.0),
            torch.linspace(0, 0.3, 40),
            torch.linspace(0, 0.36, 40),
        ],
        1,
    )
    assert vae.active_units(mu).tolist() == [
        True,
        False,
        False,
        True,
    ]  # variances .36, 0, .008, .0114
    assert vae.active_units(mu, least=0.001).tolist() == [True, False, True, True]
    with pytest.raises(VAEError, match=r"\[N, L\]"):
        vae.active_units(mu[0])


def test_an_averaged_loss_collapses_and_the_elbo_does_not(digits):
    active = {}
    for beta in (1.0, 784.0):
        c = config(beta=beta, epochs=12, lr=3e-3)
        m = vae_of(c, (1, 28, 28))
        training.fit(m, digits[0], c, progress=False)
        active[beta] = (
            vae.active_units(m.encode(torch.from_numpy(digits[1].x).float() / 255)[0]).sum().item()
        )
    assert active[784.0] == 0 < active[1.0]


def test_aggregate_of_known_codes():
    N = 800
    same = study.aggregate(torch.full((N, 2), 0.5), torch.full((N, 2), -1.0), Noise(0))
    assert (
        abs(same.kl - 2 * kl_normal(torch.tensor(0.5), torch.tensor(-1.0)).item()) < 0.1
        and abs(same.information) < 1e-9
    )
    apart = study.aggregate(20.0 * torch.arange(N)[:, None], torch.zeros(N, 1), Noise(0))
    assert abs(apart.information - math.log(N)) < 1e-6
    mu = Noise(1).normal(N, 1) * 0.8  # a mixture of normals with variances .64 + .36 is the prior
    prior = study.aggregate(mu, torch.full((N, 1), math.log(0.36)), Noise(0))
    assert (
        abs(prior.kl) < 0.03 and abs(prior.information + 0.5 * math.log(0.36)) < 0.1
    )  # the mutual information of a Gaussian channel
    assert abs(prior.sd[0] - 1) < 0.05 and abs(prior.mean[0]) < 0.08


# ---------------------------------------------------------------- the runner's interface
@pytest.fixture(scope="module")
def trained(digits):
    c = config(epochs=4, lr=3e-3, latent=3)
    m = vae.model_of(c, digits[0])
    training.fit(m, digits[0], c, progress=False)
    return m, c


def test_measure_gives_plain_numbers_and_draws_its_figures(trained, digits):
    m, c = trained
    metrics, arrays = measure(m, *digits, c)
    assert all(
        isinstance(v, (int, float)) or isinstance(v, list) and all(isinstance(e, float) for e in v)
        for v in metrics.values()
    )
    assert math.isclose(
        metrics["elbo_test"], -metrics["recon_test"] - metrics["kl_test"], rel_tol=1e-6
    )
    assert (
        math.isclose(sum(metrics["kl_per_latent"]), metrics["kl_test"], rel_tol=1e-5)
        and len(metrics["kl_per_latent"]) == 3
    )
    assert (
        metrics["log_p_test"] > metrics["elbo_test"]
        and metrics["log_p_images"] == metrics["images_test"] == 60
    )
    assert metrics["log_p_test"] == metrics["log_p_subset_test"] and metrics["log_p_samples"] == 10
    assert (
        metrics["parameters"]
        == sum(p.numel() for p in m.parameters())
        == metrics["parameters_encoder"] + metrics["parameters_decoder"]
    )
    assert (
        arrays["reconstructions"].shape == (20, 1, 28, 28) and arrays["samples"].dtype == np.uint8
    )
    assert arrays["mu"].shape == (60, 3) and all(
        isinstance(a, np.ndarray) and a.dtype != object for a in arrays.values()
    )
    figures = study.run_figures(arrays, c)
    assert list(figures) == ["reconstructions", "samples", "latents", "kl"]
    for draw in figures.values():
        plt.close(draw())
    again = measure(m, *digits, c)[0]
    assert again == metrics


def test_measure_says_how_many_images_it_took(trained, digits):
    m, c = trained
    whole, part = (
        measure(m, *digits, replace(c, samples=20), budget=b)[0] for b in (10_000, 30 * 20)
    )
    assert (whole["log_p_images"], part["log_p_images"]) == (60, 30)
    assert abs(part["log_p_test"] - whole["log_p_test"]) < 4 * part["log_p_se_test"] and part[
        "elbo_test"
    ] == pytest.approx(whole["elbo_test"], abs=0.5)
    assert abs(part["log_p_test"] - whole["log_p_test"]) < abs(
        part["log_p_subset_test"] - whole["log_p_test"]
    )  # the ELBO of all images helps


def test_survey_agrees_with_the_loss_and_with_log_prob(trained, digits):
    m, c = trained
    v = study.survey(m, digits[1], S=200, M=50, log_p_rows=np.array([3, 10]))
    x = m.likelihood.prepare(
        torch.from_numpy(digits[1].x).float() / 255, Noise(0, 20, 0)
    )  # the same tosses
    with torch.no_grad():
        losses = [m.loss(batch(x), 10**9, Noise(s)) for s in range(200)]
    assert abs(np.mean([t["recon"].item() for t in losses]) - v["recon"].mean()) < 0.3
    assert math.isclose(losses[0]["kl"].item(), v["kl"].sum(1).mean(), rel_tol=1e-4)
    lp = m.log_prob(x[[3, 10]], 50, Noise(0, 21, 0))
    assert np.allclose(v["value"], lp.value.numpy(), atol=1e-3) and v["se"].shape == (2,)


def test_every_image_of_a_survey_has_tosses_of_its_own(trained, digits):
    m, _ = trained
    v = study.survey(
        m, digits[1].subset(np.zeros(1100, int)), S=1, M=2, log_p_rows=np.arange(0, 1100, 50)
    )  # three blocks of one image
    assert (
        v["mu"].shape == (1100, 3)
        and len(np.unique(v["recon"])) > 1090
        and len(np.unique(v["mu"][:, 0])) > 1090
    )
    assert v["value"].shape == (22,) and len(np.unique(v["value"])) == 22


@pytest.mark.parametrize("likelihood", ["gaussian", "learned-gaussian", "continuous-bernoulli"])
def test_other_likelihoods_train_and_are_measured(digits, likelihood):
    c = config(likelihood=likelihood, samples=5, epochs=3, lr=3e-3)
    m = vae.model_of(c, digits[0])
    h = training.fit(m, digits[0], c, progress=False)
    metrics = measure(m, *digits, c)[0]
    assert (
        h.loss.iloc[-1] < h.loss.iloc[0]
        and all(np.isfinite(v).all() for v in metrics.values())
        and metrics["mse_test"] < 0.2
    )
    assert ("sigma" in metrics) == ("gaussian" in likelihood)


def test_tiny_test_sets_are_measured_too(trained, digits):
    m, c = trained
    metrics, arrays = measure(m, digits[0], digits[1].subset(range(1)), c)
    assert (
        metrics["images_test"] == 1
        and metrics["active_units"] == 0
        and math.isnan(metrics["log_p_se_test"])
    )
    for draw in study.run_figures(arrays, c).values():
        plt.close(draw())


def test_defaults_are_those_of_the_settings():
    m = vae_of(VAEConfig(), (1, 28, 28))
    assert (
        m.latent == 16
        and isinstance(m.encoder, vae.ConvEncoder)
        and isinstance(m.likelihood, Bernoulli)
    )


def test_samples_by_seed():
    "A seed is as good as the noise made from it."
    model = vae.vae_of(VAEConfig(latent=2, width=4), (1, 8, 8))
    assert torch.equal(model.sample(3, 5), model.sample(3, Noise(5))) and torch.equal(
        model.sample(2), model.sample(2, 0)
    )
    assert not torch.equal(model.sample(3, 5), model.sample(3, 6))
