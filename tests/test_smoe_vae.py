"""The mixture of decoder experts: its parts against loops and PyTorch's modules, its losses against probability theory, settings that cannot work."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from genmix import data, moe1991, smoe_vae, training
from genmix.configs import ConfigError, SMoEVAEConfig, preset
from genmix.smoe_vae import Experts, balance, balanced, compete, division, doubled, entropy, model_of, probe, view
from genmix.training import Batch, Noise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

C = SMoEVAEConfig(n=0, epochs=2, num_experts=3, latent=4, encoder="lite", batch=32)


@pytest.fixture(scope="module")
def doodles():
    return data.load("doodles", "train", n=96), data.load("doodles", "test", n=80)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def modules(e, k):
    "Expert k with PyTorch's own modules."
    up, conv = nn.Upsample(scale_factor=2), lambda a, b: nn.Conv2d(a, b, 3, padding=1)
    tail = {"lite": [up, conv(8, 16), nn.ELU(), up, conv(16, 1)],
            "medium": [up, conv(32, 64), nn.ELU(), up, conv(64, 32), nn.ELU(), conv(32, 1)],
            "full": [nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), conv(32, 1)]}[e.kind]
    first = nn.Linear(e.latent, {"lite": 8, "medium": 32, "full": 128}[e.kind] * 49)
    m = nn.Sequential(first, nn.Unflatten(1, (-1, 7, 7)), *tail, nn.Sigmoid())
    for layer, w, b in zip([v for v in m if hasattr(v, "weight")], e.weights, e.biases, strict=True):
        assert layer.weight.shape == w[k].shape and layer.bias.shape == b[k].shape
        layer.weight.data, layer.bias.data = w[k].detach().clone(), b[k].detach().clone()
    return m


# ---------------------------------------------------------------- experts
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_doubling_and_convolution_are_one_transposed_convolution(i, o, h, w, seed):
    x, kernel, bias = rand(2, i, h, w, seed=seed) - .5, rand(o, i, 3, 3, seed=seed + 1) - .5, rand(o, seed=seed + 2)
    slow = F.conv2d(F.interpolate(x, scale_factor=2), kernel, bias, padding=1)
    assert torch.allclose(F.conv_transpose2d(x, doubled(kernel), bias, 2, 1), slow, atol=1e-5)
    assert doubled(kernel).shape == (i, o, 4, 4)


@pytest.mark.parametrize("kind", ["lite", "medium", "full"])
def test_experts_are_their_modules_in_value_and_gradient(kind):
    torch.manual_seed(0)
    e, z = Experts(3, kind, 6), Noise(0).normal(7, 6)
    ones = [modules(e, k) for k in range(3)]
    every = torch.stack([m(z) for m in ones], 1)
    assert torch.allclose(e.every(z), every, atol=1e-5) and e.every(z).shape == (7, 3, 1, 28, 28)
    p = F.softmax(Noise(1).normal(7, 3), 1)
    e.blend(z, p).square().sum().backward()
    sum(p[:, k, None, None, None] * m(z) for k, m in enumerate(ones)).square().sum().backward()
    for k, m in enumerate(ones):
        layers = [v for v in m if hasattr(v, "weight")]
        for mine, theirs in zip([*e.weights, *e.biases], [v.weight for v in layers] + [v.bias for v in layers], strict=True):
            assert torch.allclose(mine.grad[k], theirs.grad, atol=1e-4 * theirs.grad.abs().max().item() + 1e-6)


def test_published_sizes():
    assert sum(p.numel() for p in smoe_vae.encoder_of("medium", 32).parameters()) == 494_144
    assert sum(p.numel() for p in Experts(7).parameters()) == 7 * 14_249


@pytest.mark.parametrize("k", [[0, 2, 1, 2, 0], [1, 1, 1, 1, 1], [2, 2, 0, 0, 0]])
def test_dispatch_puts_every_drawing_back_where_it_belongs(k):
    e, z, k = Experts(3, "lite", 4), Noise(0).normal(5, 4), torch.tensor(k)
    assert torch.allclose(e.chosen(z, k), torch.cat([e.draw(j, z[b:b + 1]) for b, j in enumerate(k.tolist())]), atol=1e-6)
    assert e.chosen(z[:0], k[:0]).shape == (0, 1, 28, 28)


@given(st.integers(0, 999), st.floats(.001, .5), st.floats(.1, 8))
@settings(max_examples=30, deadline=None)
def test_sparse_blend_is_within_its_bound(seed, eps, sharpness):
    e, z = Experts(4, "lite", 3), Noise(seed).normal(9, 3)
    p = F.softmax(sharpness * Noise(seed + 1).normal(9, 4), 1)
    left_out = (p * ((p < eps) & (p < p.max(1, keepdim=True).values))).sum(1)
    off = (e.blend(z, p, eps) - e.blend(z, p)).abs().amax((1, 2, 3))
    assert (off <= left_out + 1e-5).all()


def test_experts_that_are_left_out_get_no_gradient():
    e, z = Experts(3, "lite", 4), Noise(0).normal(2, 4)
    p = torch.tensor([[.97, .02, .01], [.96, .03, .01]], requires_grad=True)
    e.blend(z, p, .1).sum().backward()
    assert e.weights[0].grad[0].abs().sum() > 0 and e.weights[0].grad[1:].abs().sum() == 0


def test_the_weights_of_a_sparse_blend_sum_to_one():
    e, z, p = Experts(3, "lite", 4), Noise(0).normal(5, 4), F.softmax(Noise(1).normal(5, 3), 1)
    for w in [*e.weights, *e.biases]: w.data[:] = w.data[:1].clone()                       # all experts alike: every average is their drawing
    assert torch.allclose(e.blend(z, p, .4), e.draw(0, z), atol=1e-6)


# ---------------------------------------------------------------- losses
def test_the_weights_of_the_published_loss_and_the_loss_of_new_images(doodles):
    m = model_of(replace(C, beta=.3, balance=50., entropy=70.), doodles[0]).train()
    x = torch.from_numpy(doodles[0].x[:16]).float() / 255
    t = m.loss(Batch(x, None, None), 0, Noise(0))
    assert t["loss"].item() == pytest.approx((t["recon"] + .3 * t["kl"] + (50 * t["balance"] + 70 * t["entropy"]) / 32).item(), rel=1e-6)
    with torch.no_grad():
        _, _, z = m.codes(x, Noise(0))
        assert t["recon"].item() == pytest.approx((x - m.experts.blend(z, m.route(z).exp())).square().sum((1, 2, 3)).mean().item(), rel=1e-5)
        hard = m.eval().loss(Batch(x, None, None), 0, Noise(0))["recon"]
        drawn = m.experts.every(z)[torch.arange(16), m.route(z).argmax(1)]
    assert hard.item() == pytest.approx((x - drawn).square().sum((1, 2, 3)).mean().item(), rel=1e-5)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_gate_terms(B, K, seed):
    log_p = F.log_softmax(3 * Noise(seed).normal(B, K), 1)
    p = log_p.exp().double().numpy()
    assert balance(log_p.exp()).item() == pytest.approx(K * ((p.mean(0) - 1 / K)**2).sum(), abs=1e-5) and balance(log_p.exp()) <= K - 1 + 1e-5
    assert entropy(log_p).item() == pytest.approx(-(p * np.log(p)).sum(1).mean(), abs=1e-5)


@given(st.integers(1, 5), st.floats(.05, 3), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_competition_is_the_loss_of_1991(K, sigma, seed):
    d, o = rand(4, 6, seed=seed).double(), rand(4, K, 6, seed=seed + 1).double().requires_grad_()
    log_p = F.log_softmax(rand(4, K, seed=seed + 2).double(), 1)
    cost, log_r = compete(log_p, (d[:, None] - o).square().sum(2), sigma)
    args = d.T.numpy()[:, None], o.detach().permute(2, 1, 0).numpy(), log_p.exp().T.numpy()
    assert np.allclose(cost.detach().numpy(), 2 * sigma**2 * moe1991.E_mixture(*args, sigma), atol=1e-9)
    assert np.allclose(log_r.exp().detach().numpy(), moe1991.responsibilities(moe1991.squared_errors(*args[:2]), args[2], sigma).T, atol=1e-9)
    g, = torch.autograd.grad(cost.sum(), o)
    assert torch.allclose(g, 2 * log_r.exp()[:, :, None] * (o - d[:, None]), atol=1e-9)


@given(st.integers(2, 5), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_balanced_responsibilities_use_all_experts_alike(K, seed):
    r = balanced(3 * Noise(seed).normal(20 * K, K)).exp()
    assert torch.allclose(r.sum(1), torch.ones(20 * K), atol=1e-5) and torch.allclose(r.sum(0), torch.full((K,), 20.), atol=.2)


def test_competition_is_balanced_at_first_and_free_afterwards(doodles):
    m = model_of(replace(C, routing="compete", sigma=3., balanced=3), doodles[0]).train()
    x, z = torch.from_numpy(doodles[0].x[:12]).float() / 255, Noise(0).normal(12, 4)
    log_p, each = m.route(z), (x[:, None] - m.experts.every(z)).square().sum((2, 3, 4))
    r = balanced(log_p - each / 18).exp()
    assert torch.allclose(m.error(x, z, log_p, 2), (r * (each - 18 * log_p)).sum(1), rtol=1e-5)
    assert torch.allclose(m.error(x, z, log_p, 3), compete(log_p, each, 3.)[0], rtol=1e-5)
    assert not torch.allclose(m.error(x, z, log_p, 2), m.error(x, z, log_p, 3), rtol=1e-3)


def test_one_expert_makes_all_routings_one(doodles):
    b = Batch(torch.from_numpy(doodles[0].x[:8]).float() / 255, torch.from_numpy(doodles[0].y[:8]), torch.arange(8))
    got = {r: model_of(replace(C, num_experts=1, routing=r), doodles[0]).train().loss(b, 0, Noise(0)) for r in ("blend", "compete", "supervised")}
    assert got["blend"]["recon"].item() == pytest.approx(got["compete"]["recon"].item(), rel=1e-5) == pytest.approx(got["supervised"]["recon"].item(), rel=1e-5)


def test_supervised_routing_learns_the_class(doodles):
    c = replace(C, routing="supervised", epochs=60, num_experts=5, lr=3e-3)
    m = model_of(c, doodles[0])
    training.fit(m, doodles[0], c, progress=False)
    assert (view(m, doodles[0])["k"] == doodles[0].y).mean() > .8


def test_sparse_training_is_dense_training_for_a_sharp_gate(doodles):
    b = Batch(torch.from_numpy(doodles[0].x[:16]).float() / 255, torch.from_numpy(doodles[0].y[:16]), torch.arange(16))
    dense, sparse = (model_of(replace(C, skip=s), doodles[0]).train() for s in (0., 1e-4))
    for m in (dense, sparse): m.gate[-1].weight.data *= 300
    a, s = dense.loss(b, 0, Noise(0)), sparse.loss(b, 0, Noise(0))
    assert a["recon"].item() == pytest.approx(s["recon"].item(), rel=1e-3)


# ---------------------------------------------------------------- measuring
def test_division_of_known_tables():
    y = np.repeat([0, 1], 50)
    d = division(np.where(np.arange(100) % 50 < 40, y, 1 - y), y, 3)
    joint = np.array([[.4, .1], [.1, .4]])
    assert d["mi"] == pytest.approx((joint * np.log(joint / .25)).sum(), abs=1e-9) and d["purity"] == .8 and d["active"] == 2
    assert d["usage_entropy"] == pytest.approx(math.log(2)) and d["nmi"] == pytest.approx(d["mi"] / math.log(2), abs=1e-9)


def test_probe_finds_what_is_linear_and_nothing_else():
    z = np.random.default_rng(0).normal(size=(400, 3))
    assert probe(z, (z[:, 0] > 0).astype(int)) > .95 and probe(z, np.random.default_rng(1).integers(0, 2, 400)) < .65
    assert probe(z, np.zeros(400, int)) == 1.


@pytest.mark.parametrize("routing", ["blend", "compete", "supervised"])
def test_measure_agrees_with_loops_and_draws(doodles, routing):
    train, test = doodles
    c = replace(C, routing=routing)
    m = model_of(c, train)
    training.fit(m, train, c, progress=False)
    metrics, arrays = smoe_vae.measure(m, train, test, c)
    x = torch.from_numpy(test.x[:]).float() / 255
    with torch.no_grad():
        mu, _, _ = m.codes(x)
        drawn = torch.cat([m.experts.draw(m.gate(v[None]).argmax().item(), v[None]) for v in mu])
    assert metrics["sse_mu_test"] == pytest.approx((x - drawn).square().sum((1, 2, 3)).mean().item(), rel=1e-4)
    assert torch.allclose(m.reconstruct(x), drawn, atol=1e-5) and m.sample(3, Noise(0)).shape == (3, 1, 28, 28)
    alike = metrics.pop("correlation")                                                  # None if fewer than two experts draw
    assert alike is None if metrics["active"] < 2 else -1 <= alike <= 1
    assert all(isinstance(v, (int, float)) and math.isfinite(v) for v in metrics.values())
    import matplotlib.pyplot as plt
    for draw in smoe_vae.run_figures(arrays, c).values(): plt.close(draw())


def test_settings_that_cannot_work(doodles):
    for kw, says in (({"num_experts": 0}, "num_experts"), ({"fraction": 0.}, "fraction"), ({"routing": "vote"}, "routing"), ({"sigma": 0.}, "sigma")):
        with pytest.raises(ConfigError, match=says): replace(C, **kw)
    with pytest.raises(ConfigError, match="28x28"): model_of(C, data.load("sprites", n=10))
    one = doodles[0].subset(np.flatnonzero(doodles[0].y == 0))
    with pytest.raises(ConfigError, match="these images have 1 class;"): model_of(replace(C, routing="supervised"), replace(one, classes=("cat",)))


def test_a_resumed_run_and_another_latent_size(doodles, tmp_path):
    train, c = doodles[0], C
    whole, part = model_of(c, train), model_of(c, train)
    training.fit(whole, train, c, progress=False)
    training.fit(part, train, replace(c, epochs=1), folder=tmp_path, progress=False)
    again = model_of(c, train)
    training.fit(again, train, c, folder=tmp_path, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters()))
    other = replace(c, latent=5)
    with pytest.raises(training.TrainingError, match="latent is 4 there and 5 here"):
        training.fit(model_of(other, train), train, other, folder=tmp_path, progress=False)


def test_presets_are_the_published_ones():
    paper, debug = preset("paper", "smoe-vae"), preset("debug", "smoe-vae")
    told = dict(num_experts=5, latent=32, beta=.01, balance=200, entropy=400, batch=128, lr=1e-3, epochs=20, encoder="medium", expert="lite")
    assert {k: getattr(paper, k) for k in told} == told
    assert paper.data.startswith("quickdraw") and (debug.data, debug.epochs, debug.latent) == ("mnist", 1, 16)
