"""The mixture of decoder experts: its parts against loops and PyTorch's modules, its losses
against probability theory, settings that cannot work.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from genmix import data, moe1991, smoe_vae, training
from genmix.configs import ConfigError, SMoEVAEConfig, preset
from genmix.parts.smoe_experts import Experts, doubled, needed
from genmix.smoe_vae import balance, balanced, compete, division, entropy, model_of, view
from genmix.studies import smoe_run
from genmix.studies import smoe_vae as study
from genmix.studies.smoe_run import probe
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
    tail = {
        "lite": [up, conv(8, 16), nn.ELU(), up, conv(16, 1)],
        "medium": [up, conv(32, 64), nn.ELU(), up, conv(64, 32), nn.ELU(), conv(32, 1)],
        "full": [
            nn.ConvTranspose2d(128, 64, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, 2, 1),
            nn.ReLU(),
            conv(32, 1),
        ],
    }[e.kind]
    first = nn.Linear(e.latent, {"lite": 8, "medium": 32, "full": 128}[e.kind] * 49)
    m = nn.Sequential(first, nn.Unflatten(1, (-1, 7, 7)), *tail, nn.Sigmoid())
    for layer, w, b in zip(
        [v for v in m if hasattr(v, "weight")], e.weights, e.biases, strict=True
    ):
        assert layer.weight.shape == w[k].shape and layer.bias.shape == b[k].shape
        layer.weight.data, layer.bias.data = w[k].detach().clone(), b[k].detach().clone()
    return m


# ---------------------------------------------------------------- experts
@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99)
)
@settings(max_examples=40, deadline=None)
def test_doubling_and_convolution_are_one_transposed_convolution(i, o, h, w, seed):
    x, kernel, bias = (
        rand(2, i, h, w, seed=seed) - 0.5,
        rand(o, i, 3, 3, seed=seed + 1) - 0.5,
        rand(o, seed=seed + 2),
    )
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
        for mine, theirs in zip(
            [*e.weights, *e.biases],
            [v.weight for v in layers] + [v.bias for v in layers],
            strict=True,
        ):
            assert torch.allclose(
                mine.grad[k], theirs.grad, atol=1e-4 * theirs.grad.abs().max().item() + 1e-6
            )


def test_published_sizes():
    assert sum(p.numel() for p in smoe_vae.encoder_of("medium", 32).parameters()) == 494_144
    assert sum(p.numel() for p in Experts(7).parameters()) == 7 * 14_249


@pytest.mark.parametrize("k", [[0, 2, 1, 2, 0], [1, 1, 1, 1, 1], [2, 2, 0, 0, 0]])
def test_dispatch_puts_every_drawing_back_where_it_belongs(k):
    e, z, k = Experts(3, "lite", 4), Noise(0).normal(5, 4), torch.tensor(k)
    assert torch.allclose(
        e.chosen(z, k),
        torch.cat([e.draw(j, z[b : b + 1]) for b, j in enumerate(k.tolist())]),
        atol=1e-6,
    )
    assert e.chosen(z[:0], k[:0]).shape == (0, 1, 28, 28)


@given(st.integers(0, 999), st.floats(0.001, 0.5), st.floats(0.1, 8))
@settings(max_examples=30, deadline=None)
def test_sparse_blend_is_within_its_bound(seed, eps, sharpness):
    e, z = Experts(4, "lite", 3), Noise(seed).normal(9, 3)
    p = F.softmax(sharpness * Noise(seed + 1).normal(9, 4), 1)
    left_out = (p * ((p < eps) & (p < p.max(1, keepdim=True).values))).sum(1)
    off = (e.blend(z, p, eps) - e.blend(z, p)).abs().amax((1, 2, 3))
    assert (off <= left_out + 1e-5).all()


def test_experts_that_are_left_out_get_no_gradient():
    e, z = Experts(3, "lite", 4), Noise(0).normal(2, 4)
    p = torch.tensor([[0.97, 0.02, 0.01], [0.96, 0.03, 0.01]], requires_grad=True)
    e.blend(z, p, 0.1).sum().backward()
    assert e.weights[0].grad[0].abs().sum() > 0 and e.weights[0].grad[1:].abs().sum() == 0


def test_the_weights_of_a_sparse_blend_sum_to_one():
    e, z, p = Experts(3, "lite", 4), Noise(0).normal(5, 4), F.softmax(Noise(1).normal(5, 3), 1)
    for w in [*e.weights, *e.biases]:
        w.data[:] = w.data[:1].clone()  # all experts alike: every average is their drawing
    assert torch.allclose(e.blend(z, p, 0.4), e.draw(0, z), atol=1e-6)


# ---------------------------------------------------------------- losses
def test_the_weights_of_the_published_loss_and_the_loss_of_new_images(doodles):
    m = model_of(replace(C, beta=0.3, balance=50.0, entropy=70.0), doodles[0]).train()
    x = torch.from_numpy(doodles[0].x[:16]).float() / 255
    t = m.loss(Batch(x, None, None), 0, Noise(0))
    assert t["loss"].item() == pytest.approx(
        (t["recon"] + 0.3 * t["kl"] + (50 * t["balance"] + 70 * t["entropy"]) / 32).item(), rel=1e-6
    )
    with torch.no_grad():
        _, _, z = m.codes(x, Noise(0))
        assert t["recon"].item() == pytest.approx(
            (x - m.experts.blend(z, m.route(z).exp())).square().sum((1, 2, 3)).mean().item(),
            rel=1e-5,
        )
        hard = m.eval().loss(Batch(x, None, None), 0, Noise(0))["recon"]
        drawn = m.experts.every(z)[torch.arange(16), m.route(z).argmax(1)]
    assert hard.item() == pytest.approx((x - drawn).square().sum((1, 2, 3)).mean().item(), rel=1e-5)


@pytest.mark.parametrize("routing", ["blend", "compete", "supervised"])
def test_the_loss_is_the_sum_of_its_terms(doodles, routing):
    c = replace(C, routing=routing, beta=0.3, balance=50.0, entropy=70.0, balanced=0)
    m = model_of(c, doodles[0]).train()
    x = torch.from_numpy(doodles[0].x[:16]).float() / 255
    y = torch.from_numpy(doodles[0].y[:16])
    t = m.loss(Batch(x, y, None), 0, Noise(0))
    assert list(t) == ["loss", "recon", "kl", "balance", "entropy", "used"]
    log_p = m.route(m.codes(x, Noise(0))[2])
    gate = {
        "blend": (50 * t["balance"] + 70 * t["entropy"]) / 32,
        "compete": 0.0,
        "supervised": -50 * log_p[torch.arange(16), y % 3].mean(),
    }[routing]
    assert t["loss"].item() == pytest.approx((t["recon"] + 0.3 * t["kl"] + gate).item(), rel=1e-6)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_gate_terms(B, K, seed):
    log_p = F.log_softmax(3 * Noise(seed).normal(B, K), 1)
    p = log_p.exp().double().numpy()
    assert (
        balance(log_p.exp()).item() == pytest.approx(K * ((p.mean(0) - 1 / K) ** 2).sum(), abs=1e-5)
        and balance(log_p.exp()) <= K - 1 + 1e-5
    )
    assert entropy(log_p).item() == pytest.approx(-(p * np.log(p)).sum(1).mean(), abs=1e-5)


@given(st.integers(1, 5), st.floats(0.05, 3), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_competition_is_the_loss_of_1991(K, sigma, seed):
    d, o = rand(4, 6, seed=seed).double(), rand(4, K, 6, seed=seed + 1).double().requires_grad_()
    log_p = F.log_softmax(rand(4, K, seed=seed + 2).double(), 1)
    cost, log_r = compete(log_p, (d[:, None] - o).square().sum(2), sigma)
    args = d.T.numpy()[:, None], o.detach().permute(2, 1, 0).numpy(), log_p.exp().T.numpy()
    assert np.allclose(
        cost.detach().numpy(), 2 * sigma**2 * moe1991.E_mixture(*args, sigma), atol=1e-9
    )
    assert np.allclose(
        log_r.exp().detach().numpy(),
        moe1991.responsibilities(moe1991.squared_errors(*args[:2]), args[2], sigma).T,
        atol=1e-9,
    )
    (g,) = torch.autograd.grad(cost.sum(), o)
    assert torch.allclose(g, 2 * log_r.exp()[:, :, None] * (o - d[:, None]), atol=1e-9)


@given(st.integers(2, 5), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_balanced_responsibilities_use_all_experts_alike(K, seed):
    r = balanced(3 * Noise(seed).normal(20 * K, K)).exp()
    assert torch.allclose(r.sum(1), torch.ones(20 * K), atol=1e-5) and torch.allclose(
        r.sum(0), torch.full((K,), 20.0), atol=0.2
    )


def test_competition_is_balanced_at_first_and_free_afterwards(doodles):
    m = model_of(replace(C, routing="compete", sigma=3.0, balanced=3), doodles[0]).train()
    x, z = torch.from_numpy(doodles[0].x[:12]).float() / 255, Noise(0).normal(12, 4)
    log_p, each = m.route(z), (x[:, None] - m.experts.every(z)).square().sum((2, 3, 4))
    r = balanced(log_p - each / 18).exp()
    fair, own = (m.mixture_error(x, z, log_p, step) for step in (2, 3))
    assert torch.allclose(fair, (r * (each - 18 * log_p)).sum(1), rtol=1e-5)
    assert torch.allclose(own, compete(log_p, each, 3.0)[0], rtol=1e-5)
    assert not torch.allclose(fair, own, rtol=1e-3)


def test_one_expert_makes_all_routings_one(doodles):
    b = Batch(
        torch.from_numpy(doodles[0].x[:8]).float() / 255,
        torch.from_numpy(doodles[0].y[:8]),
        torch.arange(8),
    )
    got = {
        r: model_of(replace(C, num_experts=1, routing=r), doodles[0]).train().loss(b, 0, Noise(0))
        for r in ("blend", "compete", "supervised")
    }
    assert (
        got["blend"]["recon"].item()
        == pytest.approx(got["compete"]["recon"].item(), rel=1e-5)
        == pytest.approx(got["supervised"]["recon"].item(), rel=1e-5)
    )


def test_supervised_routing_learns_the_class(doodles):
    c = replace(C, routing="supervised", epochs=60, num_experts=5, lr=3e-3)
    m = model_of(c, doodles[0])
    training.fit(m, doodles[0], c, progress=False)
    assert (view(m, doodles[0])["k"] == doodles[0].y).mean() > 0.8


def test_sparse_training_is_dense_training_for_a_sharp_gate(doodles):
    b = Batch(
        torch.from_numpy(doodles[0].x[:16]).float() / 255,
        torch.from_numpy(doodles[0].y[:16]),
        torch.arange(16),
    )
    dense, sparse = (model_of(replace(C, skip=s), doodles[0]).train() for s in (0.0, 1e-4))
    for m in (dense, sparse):
        m.gate[-1].weight.data *= 300
    a, s = dense.loss(b, 0, Noise(0)), sparse.loss(b, 0, Noise(0))
    assert a["recon"].item() == pytest.approx(s["recon"].item(), rel=1e-3)


# ---------------------------------------------------------------- measuring
def test_division_of_known_tables():
    y = np.repeat([0, 1], 50)
    d = division(np.where(np.arange(100) % 50 < 40, y, 1 - y), y, 3)
    joint = np.array([[0.4, 0.1], [0.1, 0.4]])
    assert (
        d["mi"] == pytest.approx((joint * np.log(joint / 0.25)).sum(), abs=1e-9)
        and d["purity"] == 0.8
        and d["active"] == 2
    )
    assert d["usage_entropy"] == pytest.approx(math.log(2)) and d["nmi"] == pytest.approx(
        d["mi"] / math.log(2), abs=1e-9
    )


def test_probe_finds_what_is_linear_and_nothing_else():
    z = np.random.default_rng(0).normal(size=(400, 3))
    assert (
        probe(z, (z[:, 0] > 0).astype(int)) > 0.95
        and probe(z, np.random.default_rng(1).integers(0, 2, 400)) < 0.65
    )
    assert probe(z, np.zeros(400, int)) == 1.0


@pytest.mark.parametrize("routing", ["blend", "compete", "supervised"])
def test_measure_agrees_with_loops_and_draws(doodles, routing):
    train, test = doodles
    c = replace(C, routing=routing)
    m = model_of(c, train)
    training.fit(m, train, c, progress=False)
    metrics, arrays = smoe_run.measure(m, train, test, c)
    x = torch.from_numpy(test.x[:]).float() / 255
    with torch.no_grad():
        mu, _, _ = m.codes(x)
        drawn = torch.cat([m.experts.draw(m.gate(v[None]).argmax().item(), v[None]) for v in mu])
    assert metrics["sse_mu_test"] == pytest.approx(
        (x - drawn).square().sum((1, 2, 3)).mean().item(), rel=1e-4
    )
    assert torch.allclose(m.reconstruct(x), drawn, atol=1e-5) and m.sample(3, Noise(0)).shape == (
        3,
        1,
        28,
        28,
    )
    alike = metrics.pop("correlation")  # None if fewer than two experts draw
    assert alike is None if metrics["active"] < 2 else -1 <= alike <= 1
    assert all(isinstance(v, (int, float)) and math.isfinite(v) for v in metrics.values())
    import matplotlib.pyplot as plt

    for draw in smoe_run.run_figures(arrays, c).values():
        plt.close(draw())


def test_settings_that_cannot_work(doodles):
    for kw, says in (
        ({"num_experts": 0}, "num_experts"),
        ({"fraction": 0.0}, "fraction"),
        ({"routing": "vote"}, "routing"),
        ({"sigma": 0.0}, "sigma"),
    ):
        with pytest.raises(ConfigError, match=says):
            replace(C, **kw)
    with pytest.raises(ConfigError, match="28x28"):
        model_of(C, data.load("sprites", n=10))
    one = doodles[0].subset(np.flatnonzero(doodles[0].y == 0))
    with pytest.raises(ConfigError, match="these images have 1 class;"):
        model_of(replace(C, routing="supervised"), replace(one, classes=("cat",)))


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
    told = dict(
        num_experts=5,
        latent=32,
        beta=0.01,
        balance=200,
        entropy=400,
        batch=128,
        lr=1e-3,
        epochs=20,
        encoder="medium",
        expert="lite",
    )
    assert {k: getattr(paper, k) for k in told} == told
    assert paper.data.startswith("quickdraw") and (debug.data, debug.epochs, debug.latent) == (
        "mnist",
        1,
        16,
    )


# ---------------------------------------------------------------- sparse training
def test_sparse_competition_costs_no_less_and_by_the_responsibility_left_out(doodles):
    m = model_of(
        replace(C, routing="compete", num_experts=6, skip=0.12, sigma=2.0, balanced=0), doodles[0]
    ).train()
    with torch.no_grad():
        for p in m.gate.parameters():
            p *= 3
    x = torch.from_numpy(doodles[0].x[:40]).float() / 255
    z = m.codes(x)[0]
    log_p = m.route(z)
    keep = needed(log_p.exp(), 0.12)
    assert 1 <= keep.sum(1).min() and keep.float().mean() < 1
    full, log_r = compete(log_p, (x[:, None] - m.experts.every(z)).square().sum((2, 3, 4)), 2.0)
    left_out = (log_r.exp() * ~keep).sum(1)
    found = m.mixture_error(x, z, log_p, 0)
    assert torch.allclose(found, full - 8 * torch.log1p(-left_out), atol=1e-3)
    assert torch.isfinite(
        m.loss(Batch(x, torch.zeros(40, dtype=torch.long), None), 0, Noise(0))["loss"]
    )


@pytest.mark.parametrize("step", [0, 10])
def test_sparse_gradients_reach_only_the_experts_that_draw(doodles, step):
    m = model_of(
        replace(C, routing="compete", num_experts=4, skip=0.2, balanced=5), doodles[0]
    ).train()
    with torch.no_grad():
        m.gate[-1].weight.zero_()
        m.gate[-1].bias.copy_(torch.tensor([3.0, 3.0, -9.0, -9.0]))
    x = torch.from_numpy(doodles[0].x[:16]).float() / 255
    m.loss(Batch(x, torch.zeros(16, dtype=torch.long), None), step, Noise(0))["loss"].backward()
    touched = [bool(w.grad[k].abs().sum() > 0) for k in range(4) for w in m.experts.weights[:1]]
    assert touched[2:] == [False, False] and any(touched[:2])
    assert all(p.grad.isfinite().all() for p in m.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "B", [20, 40, 200]
)  # below and above the number of codes from which two layers are one
@pytest.mark.parametrize("kind", ["lite", "medium", "full"])
def test_many_codes_are_drawn_as_few(kind, B):
    torch.manual_seed(0)
    e, z = Experts(2, kind, 32), Noise(0).normal(B, 32)
    with torch.no_grad():
        few = torch.cat([e.draw(1, v) for v in z.split(5)])
        assert torch.allclose(e.draw(1, z), few, atol=1e-5)


def test_channels_last_changes_nothing_but_the_layout(doodles):
    found = []
    for layout in (False, True):
        c = replace(C, epochs=1, channels_last=layout)
        m = model_of(c, doodles[0])
        found.append(training.fit(m, doodles[0], c, progress=False).loss.iloc[-1])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


# ---------------------------------------------------------------- keeping experts in use
def test_bias_moves_against_the_load(doodles):
    c = replace(C, balancing="bias")
    m = model_of(c, doodles[0]).train()
    log_p = torch.log(torch.tensor([[0.8, 0.1, 0.1]] * 9 + [[0.1, 0.8, 0.1]] * 3))
    m.adapt(log_p, rate=0.5)
    assert m.bias.tolist() == [-0.5, 0.5, 0.5]  # 9, 3 and 0 images; 4 would be fair
    z = Noise(0).normal(5, 4)
    assert torch.allclose(m.route(z), F.log_softmax(m.gate(z) + m.bias, 1))
    training.fit(m, doodles[0], c, progress=False)
    assert "bias" in m.state_dict()


def test_bias_keeps_experts_in_use(doodles):
    used = {}
    for how in ("quadratic", "bias"):
        c = replace(C, balancing=how, balance=0.0, entropy=0.0, epochs=20, num_experts=4)
        m = model_of(c, doodles[0])
        with torch.no_grad():
            m.gate[-1].bias[0] += 1.0  # one is ahead from the start
        training.fit(m, doodles[0], c, progress=False)
        used[how] = np.bincount(view(m, doodles[0])["k"], minlength=4).max()
    assert used["bias"] < used["quadratic"]


def test_a_dead_expert_becomes_a_copy_of_the_busiest(doodles):
    c = replace(C, revive=2, num_experts=3)
    m = model_of(c, doodles[0]).train()
    before = [w[0].detach().clone() for w in m.experts.weights]
    share = m.gate[-1].bias[0].item()
    log_p = torch.log(torch.tensor([[0.8, 0.1, 0.1]] * 6 + [[0.1, 0.8, 0.1]] * 4))
    m.renew(0)
    m.adapt(log_p)
    m.renew(1)
    assert m.drew.tolist() == [6, 4, 0] and not torch.allclose(
        m.experts.weights[0][2], before[0], atol=0.05
    )
    m.adapt(log_p)
    m.renew(2)
    assert m.drew.tolist() == [0, 0, 0]
    for w, old in zip(m.experts.weights, before):
        assert torch.equal(w[0], old) and not torch.equal(w[2], old)
        assert (w[2] - old).std().item() == pytest.approx(
            0.1 * old.std().item(), rel=0.35
        )  # a tenth of its size
    assert m.gate[-1].bias[0].item() == pytest.approx(share - math.log(2), abs=1e-5)
    kept = m.experts.weights[0].detach().clone()
    m.adapt(torch.log(torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])))
    m.renew(4)
    assert torch.equal(m.experts.weights[0], kept)  # nobody is dead


def test_noisy_routing_keeps_two_in_training_and_is_quiet_afterwards(doodles):
    m = model_of(replace(C, balancing="noisy", num_experts=5), doodles[0])
    z = Noise(1).normal(50, 4)
    assert ((m.route(z, Noise(2)).exp() > 1e-9).sum(1) == 2).all()
    assert torch.equal(m.route(z), F.log_softmax(m.gate(z), 1))
    x = torch.from_numpy(doodles[0].x[:8]).float() / 255
    m.train()
    terms = m.loss(Batch(x, torch.zeros(8, dtype=torch.long), None), 0, Noise(0))
    terms["loss"].backward()
    assert all(v.isfinite() for v in terms.values()) and m.noise.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "extra",
    [dict(balancing="bias"), dict(balancing="noisy"), dict(revive=2), dict(balancing="switch")],
)
def test_runs_with_balancing_resume_identically(doodles, tmp_path, extra):
    c = replace(C, steps=6, **extra)
    whole = model_of(c, doodles[0])
    training.fit(whole, doodles[0], c, progress=False)
    part = model_of(c, doodles[0])
    training.fit(part, doodles[0], replace(c, steps=3), folder=tmp_path, progress=False)
    again = model_of(replace(c, seed=0), doodles[0])
    training.fit(again, doodles[0], c, folder=tmp_path, progress=False)
    for k, v in whole.state_dict().items():
        assert torch.equal(v, again.state_dict()[k]), k


# ---------------------------------------------------------------- log p(x)
def test_log_p_of_equal_experts_is_that_of_one(doodles):
    one = model_of(replace(C, num_experts=1), doodles[0]).eval()
    three = model_of(replace(C, num_experts=3), doodles[0]).eval()
    three.encoder.load_state_dict(one.encoder.state_dict())
    with torch.no_grad():
        for a, b in zip(
            (*three.experts.weights, *three.experts.biases),
            (*one.experts.weights, *one.experts.biases),
        ):
            a.copy_(b.expand_as(a))
    x = torch.from_numpy(doodles[1].x[:6]).float() / 255
    want = one.log_prob(x, 20).value
    for soft in (False, True):
        assert torch.allclose(three.log_prob(x, 20, soft=soft).value, want, atol=1e-3, rtol=1e-5)
    assert torch.allclose(
        three.log_prob(x, 20, chunk=7).value, want, atol=1e-3, rtol=1e-5
    )  # chunks: memory, not the result
    z, mu, lv = Noise(0, device="cpu").normal(20, 6, 4, dim=1), *one.encode(x)
    codes = mu + (0.5 * lv).exp() * z
    s = math.sqrt(C.beta / 2)
    with torch.no_grad():
        px = torch.stack(
            [
                torch.distributions.Normal(one.experts.draw(0, v), s).log_prob(x).sum((1, 2, 3))
                for v in codes
            ]
        )
        q = torch.distributions.Normal(mu, (0.5 * lv).exp()).log_prob(codes).sum(2)
        w = px + torch.distributions.Normal(0.0, 1.0).log_prob(codes).sum(2) - q
    assert torch.allclose(want, (w.double().logsumexp(0) - math.log(20)), rtol=1e-4)


# ---------------------------------------------------------------- studies
@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    from genmix import experiments

    out = tmp_path_factory.mktemp("study")
    folders = [
        experiments.train(
            SMoEVAEConfig(
                n=60, steps=4, num_experts=K, routing=r, seed=s, balanced=2, skip=0.01, plots=False
            ),
            out,
        )
        for K in (1, 2)
        for r in ("blend", "compete")
        for s in (0, 1)
    ]
    return folders, out


def test_a_study_is_collected(studied):
    df = study.collect(studied[0])
    assert len(df) == 8 and df.sse_val.notna().all() and set(df.routing) == {"blend", "compete"}
    assert (df.images_test == df.images_test.iloc[0]).all()
    for K, g in df[df.routing == "blend"].groupby("num_experts"):
        chosen = study.chosen_k(df[df.routing == "blend"])
        assert (
            chosen.chosen.iloc[0]
            == df[df.routing == "blend"].groupby("num_experts").sse_val.mean().idxmin()
        )
    pairs = study.paired(df, "blend", "compete")
    a, b = (
        df[(df.num_experts == 2) & (df.routing == r)].sort_values("seed").sse_test.to_numpy()
        for r in ("blend", "compete")
    )
    from scipy import stats

    row = pairs[pairs.num_experts == 2].iloc[0]
    assert row.difference == pytest.approx((b - a).mean()) and row.p == pytest.approx(
        stats.ttest_rel(b, a).pvalue
    )
    low, high = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (row.low, row.high) == (pytest.approx(low), pytest.approx(high))
    ari = study.agreements(studied[0])
    assert (
        len(ari) == 4
        and ari.ari.between(-1, 1).all()
        and (ari[ari.num_experts == 1].ari == 1).all()
    )


def test_test_images_do_not_move_with_the_seed(studied):
    from genmix.runs import load_arrays

    y = [load_arrays(f / "figures.npz")["y"] for f in studied[0]]
    assert all(np.array_equal(y[0], v) for v in y)


def test_studies_are_drawn(studied):
    import matplotlib.pyplot as plt

    df = study.collect(studied[0])
    df = pd.concat(
        [df, df[df.num_experts == 2].assign(fraction=0.5, sse_test=lambda t: t.sse_test + 1)]
    )
    blend = df[df.routing == "blend"]
    for fig in (
        study.plot_k(df, ""),
        study.plot_fractions(blend, ""),
        study.plot_per_expert(df, ""),
        study.plot_probes(df, ""),
    ):
        plt.close(fig)


def test_browse_shows_every_active_expert(doodles):
    m = model_of(replace(C, num_experts=3), doodles[0])
    arrays = smoe_run.measure(m, *doodles, m.config)[1]
    slider, text, picture = smoe_run.browse(arrays).children
    seen = set()
    for k in slider.options:
        slider.value = k
        assert f"{(arrays['k'] == k).sum()} test images" in text.value
        seen.add(bytes(picture.value))
    assert len(seen) == len(slider.options) and set(slider.options) == set(arrays["k"])


def test_publish_study_writes_tables_with_their_origin(studied, tmp_path, monkeypatch, capsys):
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location(
        "publish_study", Path(__file__).parent.parent / "tools" / "publish_study.py"
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(tool, "PUBLISHED", tmp_path / "a" / "b" / "smoe_vae")
    monkeypatch.setattr("sys.argv", ["publish_study", str(studied[1] / "smoe-vae")])
    tool.main()
    df = pd.read_csv(tmp_path / "a" / "b" / "smoe_vae" / "study.csv")
    assert len(df) == 8 and "study.csv" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["publish_study", str(tmp_path)])
    with pytest.raises(SystemExit):
        tool.main()


def test_k_is_chosen_on_validation_images_only():
    df = pd.DataFrame(
        [
            dict(
                data="d",
                fraction=1.0,
                num_experts=K,
                seed=s,
                active=K,
                sse_val=val + s,
                sse_test=test + s,
            )
            for K, val, test in ((1, 3.0, 1.0), (5, 2.0, 9.0), (10, 4.0, 5.0))
            for s in (0, 1)
        ]
    )
    row = study.chosen_k(df).iloc[0]
    assert (row.chosen, row.sse_test, row.best_on_test, row.one_expert) == (5, 9.5, 1, 1.5)
