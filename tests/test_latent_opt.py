"Chapter 03: rows that learn by themselves, four ways to infer a code, the gaps between them."

import io
import json
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from genmix import data, latent_opt, training, vae
from genmix.configs import preset
from genmix.latent_opt import METHODS, Noise, RowAdam, descend, elbo, gaps, infer, model_of
from genmix.studies import latent_opt as study
from genmix.studies import latent_run

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits():
    d = data.load("digits", "train")
    return d.subset(latent_opt.per_class(d, 12)), data.load("digits", "test").subset(range(60))


def config(**kwargs):
    usual = dict(
        likelihood="gaussian",
        latent=4,
        width=4,
        batch=32,
        epochs=2,
        n=0,
        lr_latent=0.1,
        new_steps=10,
        refine=2,
        samples=10,
    )
    return replace(preset("debug", "latent-opt"), **(usual | kwargs))


def sparse(rows, values, N):
    return torch.sparse_coo_tensor(
        torch.as_tensor(rows)[None], values, (N, values.shape[1]), check_invariants=True
    )


def random_steps(N, D, steps, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = torch.from_numpy(rng.permutation(N)[: rng.integers(1, N)])
        yield rows, torch.from_numpy(rng.normal(size=(len(rows), D))).float()


# ---------------------------------------------------------------- RowAdam
@pytest.mark.parametrize("lr, betas, eps", [(0.01, (0.9, 0.999), 1e-8), (0.3, (0.5, 0.9), 1e-3)])
def test_row_adam_is_adam_on_every_row_alone(lr, betas, eps):
    table = nn.Parameter(torch.randn(7, 3, generator=torch.Generator().manual_seed(0)))
    alone = [nn.Parameter(r.detach().clone()) for r in table]
    opt, opts = (
        RowAdam([table], lr, betas, eps),
        [torch.optim.Adam([p], lr, betas, eps) for p in alone],
    )
    for rows, g in random_steps(7, 3, 200):
        table.grad = sparse(rows, g, 7)
        opt.step()
        for r, v in zip(rows.tolist(), g):
            alone[r].grad = v
            opts[r].step()
    assert torch.allclose(table, torch.stack(list(alone)), rtol=1e-6, atol=1e-6)


def test_rows_without_a_gradient_stay_and_double_rows_add_up():
    table = nn.Parameter(torch.ones(5, 2))
    opt, twice = RowAdam([table], lr=0.1), nn.Parameter(torch.ones(5, 2))
    table.grad = sparse([3, 3], torch.tensor([[1.0, 2.0], [3.0, -5.0]]), 5)
    opt.step()
    other = RowAdam([twice], lr=0.1)
    twice.grad = sparse([3], torch.tensor([[4.0, -3.0]]), 5)
    other.step()
    assert torch.equal(table, twice) and (table != 1).any(1).tolist() == [
        False,
        False,
        False,
        True,
        False,
    ]
    before = table.detach().clone()
    table.grad = None
    opt.step()
    assert torch.equal(before, table)


def test_row_adam_resumes_bit_by_bit():
    steps = list(random_steps(6, 2, 40))
    whole, half = (nn.Parameter(torch.zeros(6, 2)) for _ in range(2))
    a, b = RowAdam([whole], lr=0.05), RowAdam([half], lr=0.05)
    for k, (rows, g) in enumerate(steps):
        if k == 17:
            memory = io.BytesIO()
            torch.save(b.state_dict(), memory)
            memory.seek(0)
            half = nn.Parameter(half.detach().clone())
            b = RowAdam([half], lr=99.0)
            b.load_state_dict(torch.load(memory, weights_only=True))
        whole.grad, half.grad = sparse(rows, g, 6), sparse(rows, g, 6)
        a.step()
        b.step()
    assert torch.equal(whole, half)


def test_summed_gradients_of_two_processes_move_all_rows_alike():
    whole, parts = (nn.Parameter(torch.zeros(6, 2)) for _ in range(2))
    a, b = RowAdam([whole]), RowAdam([parts])
    for rows, g in random_steps(6, 2, 20):
        k = len(rows) // 2
        whole.grad = sparse(rows, g, 6)
        parts.grad = sparse(
            torch.cat([rows[:k], rows[k:]]).flip(0), g.flip(0), 6
        )  # gathered in another order
        a.step()
        b.step()
    assert torch.allclose(whole, parts, atol=1e-7)


# ---------------------------------------------------------------- descent
def test_descend_is_adam_and_rows_do_not_see_each_other():
    A = torch.tensor([[1.0, 3.0], [2.0, 0.1], [0.5, 1.0]])

    def cost(q):
        return (A[: len(q)] * (q - 1) ** 2).sum(1)

    q, first = descend(cost, torch.zeros(3, 2), 30, 0.1, cosine=False)
    p = nn.Parameter(torch.zeros(3, 2))
    opt = torch.optim.Adam([p], lr=0.1)
    for _ in range(30):
        opt.zero_grad()
        cost(p).sum().backward()
        opt.step()
    assert torch.allclose(q, p, atol=1e-6) and torch.allclose(first, -2 * A)
    assert torch.allclose(
        descend(cost, torch.zeros(1, 2), 30, 0.1, cosine=False)[0], q[:1], atol=1e-6
    )
    assert not q.requires_grad and descend(cost, q, 0, 0.1)[1] is None


def test_descend_differentiates_through_itself():
    def end(s):
        s = s.requires_grad_()
        return descend(
            lambda q: ((q - 2) ** 4 * 0.1 + q * s).sum(1),
            s * torch.ones(1, 2, dtype=torch.float64),
            5,
            0.1,
            graph=True,
        )[0].sum()

    s = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(end(s), s)
    h = 1e-5
    numeric = (
        end(torch.tensor(0.7 + h, dtype=torch.float64))
        - end(torch.tensor(0.7 - h, dtype=torch.float64))
    ).detach() / (2 * h)
    assert abs(g.item() - numeric.item()) < 1e-5


# ---------------------------------------------------------------- four models
def test_all_methods_share_one_decoder_and_tables_start_as_told(digits):
    ms = {m: model_of(config(method=m), digits[0]) for m in METHODS}
    states = [m.decoder.state_dict() for m in ms.values()]
    assert all(torch.equal(states[0][k], s[k]) for s in states for k in states[0])
    assert ms["svi"].table.weight.shape == (len(digits[0]), 8) and ms["map"].table.weight.shape == (
        len(digits[0]),
        4,
    )
    t = model_of(config(method="svi", latent=400), digits[0]).table.weight
    assert abs(t.mean()) < 0.02 and abs(t.std() - 1) < 0.02
    assert ms["svi"].encoder is None and ms["amortized"].encoder is not None


@pytest.mark.parametrize("method", ["svi", "map"])
def test_a_step_touches_the_rows_of_its_batch_only(digits, method):
    m = model_of(config(method=method), digits[0])
    before = m.table.weight.detach().clone()
    opts = m.optimizers(config(method=method))
    m.loss(training.Rows(digits[0])(torch.tensor([5, 7])), 0, Noise(0))["loss"].backward()
    assert m.table.weight.grad.is_sparse
    for o in opts:
        o.step()
    assert (m.table.weight != before).any(1).nonzero()[:, 0].tolist() == [5, 7]


def test_losses_are_what_the_equations_say(digits):
    batch, rng = training.Rows(digits[0])(torch.arange(6)), lambda: Noise(0, 1)
    x = 2 * batch.x - 1

    def nll(out):
        return ((x - out) ** 2).flatten(1).sum(1) / (2 * 0.16) + 392 * math.log(2 * math.pi * 0.16)

    m = model_of(config(method="map"), digits[0])
    z = m.table.weight[:6]
    assert torch.allclose(
        m.loss(batch, 0, rng())["loss"], (nll(m.decoder(z)) + 0.5 * (z**2).sum(1)).mean(), rtol=1e-5
    )
    m = model_of(config(method="svi"), digits[0])
    mu, logvar = m.table.weight[:6].chunk(2, 1)
    z = mu + (0.5 * logvar).exp() * rng().normal(6, 4)
    kl = 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(1)
    assert torch.allclose(
        m.loss(batch, 0, rng())["loss"], (nll(m.decoder(z)) + kl).mean(), rtol=1e-5
    )
    m = model_of(config(method="amortized"), digits[0])
    plain = vae.vae_of(config(), (1, 28, 28))
    plain.load_state_dict(m.state_dict())
    ours, theirs = m.loss(batch, 0, rng()), plain.loss(batch, 0, rng())
    assert all(torch.allclose(ours[k], theirs[k], rtol=1e-5) for k in ("loss", "recon", "kl"))


def test_beta_warms_up_and_free_bits_are_free(digits):
    batch = training.Rows(digits[0])(torch.arange(6))
    m = model_of(config(method="svi", beta=3.0, warmup=10), digits[0])
    for step, weight in ((0, 0.0), (5, 1.5), (50, 3.0)):
        t = m.loss(batch, step, Noise(0))
        assert torch.allclose(t["loss"], t["recon"] + weight * t["kl"])
    t = model_of(config(method="svi", free_bits=100.0), digits[0]).loss(batch, 0, Noise(0))
    assert torch.allclose(t["loss"], t["recon"] + 400)


def test_the_semi_amortized_encoder_learns_at_its_guess_and_the_decoder_at_the_refined_code(digits):
    batch = training.Rows(digits[0])(torch.arange(6))
    m = model_of(config(method="semi", refine=3), digits[0])
    x = 2 * batch.x - 1
    m.loss(batch, 0, Noise(0, 1))["loss"].backward()
    enc, dec = ([p.grad.clone() for p in part.parameters()] for part in (m.encoder, m.decoder))
    m.zero_grad()
    m.cost(x, Noise(0, 1))(m.guess(x)).mean().backward()
    assert all(
        torch.allclose(a, p.grad, rtol=1e-3, atol=1e-4) for a, p in zip(enc, m.encoder.parameters())
    )
    m.zero_grad()
    rng = Noise(0, 1)
    q, _ = descend(m.cost(x, rng), m.guess(x).detach(), 3, m.lr_refine, cosine=False)
    m.cost(x, rng)(q).mean().backward()
    assert all(
        torch.allclose(a, p.grad, rtol=1e-3, atol=1e-4) for a, p in zip(dec, m.decoder.parameters())
    )


def test_no_refinement_is_amortized(digits):
    a, s = (
        training.fit(model_of(c, digits[0]), digits[0], c, progress=False)
        for c in (config(method="amortized"), config(method="semi", refine=0))
    )
    assert a.loss.tolist() == s.loss.tolist()


@pytest.mark.parametrize("method", METHODS)
def test_fit_resumes_and_evaluates_without_touching_anything(digits, method, tmp_path):
    c = config(method=method)
    whole = model_of(c, digits[0])
    h = training.fit(whole, digits[0], c, val=digits[1], progress=False)
    assert np.isfinite(h[["loss", "val_loss"]]).all().all()

    class Stop(Exception):
        pass

    def stop(epoch, *_):
        if epoch == 1:
            raise Stop

    m = model_of(c, digits[0])
    try:
        training.fit(
            m,
            digits[0],
            c,
            val=digits[1],
            folder=tmp_path,
            save_every=0.0,
            progress=False,
            on_epoch=stop,
        )
    except Stop:
        pass
    again = model_of(c, digits[0])
    h2 = training.fit(again, digits[0], c, val=digits[1], folder=tmp_path, progress=False)
    assert h2.loss.tolist() == h.loss.tolist() and h2.val_loss.tolist() == h.val_loss.tolist()
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values())
    )


@pytest.mark.parametrize(
    "likelihood", ["bernoulli", "gaussian", "learned-gaussian", "continuous-bernoulli"]
)
@pytest.mark.parametrize("method", ["svi", "map", "semi"])
def test_every_likelihood_works(digits, method, likelihood):
    c = config(method=method, likelihood=likelihood, steps=2)
    m = model_of(c, digits[0])
    h = training.fit(m, digits[0], c, progress=False)
    x = latent_opt.images(digits[1], range(3))
    t = gaps(m, x, None, 5, 5)
    assert np.isfinite(h.loss).all() and np.isfinite(t).all().all()
    assert torch.equal(m._fixed(x), m._fixed(m._fixed(x)))


# ---------------------------------------------------------------- inference against exact answers
@pytest.fixture(scope="module")
def linear():
    "A decoder whose posterior is known: images, precision, posterior means, log p(x)."
    d = data.load("digits", "test").subset(range(4))
    made = {}
    for method in ("svi", "map"):
        m = model_of(config(method=method, latent=3, new_steps=400), d)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            lin = nn.Linear(3, 784)
            lin.weight.data = (
                0.05
                * torch.randn(784, 3)
                @ torch.tensor([[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 1.0]])
            )
        m.decoder, made[method] = nn.Sequential(lin, nn.Unflatten(1, (1, 28, 28))), m
    W, b, x = lin.weight.detach().double(), lin.bias.detach().double(), latent_opt.images(d)
    v = 2 * x.double().flatten(1) - 1
    Lam = torch.eye(3, dtype=torch.float64) + W.T @ W / 0.16
    mean = torch.linalg.solve(Lam, W.T @ (v - b).T / 0.16).T
    p = torch.distributions.MultivariateNormal(
        b, 0.16 * torch.eye(784, dtype=torch.float64) + W @ W.T
    )
    return made, x, Lam, mean, p.log_prob(v)


def test_infer_finds_the_best_independent_normal(linear):
    made, x, Lam, mean, _ = linear
    mu, logvar = infer(made["svi"], x, 1500, 0.03)
    assert (mu - mean).abs().max() < 0.06
    assert (logvar.exp() * Lam.diagonal() - 1).abs().max() < 0.2
    point, width = made["map"].encode(x)
    assert (point - mean).abs().max() < 0.02 and (width == -math.inf).all()


def test_elbo_and_gaps_agree_with_the_formulas(linear):
    made, x, Lam, mean, exact = linear
    q = (mean.float(), (-Lam.diagonal().log()).float().expand(4, 3))
    gap = 0.5 * (Lam.diagonal().log().sum() - Lam.logdet()).item()
    assert (elbo(made["svi"], x, q, S=4000) - (exact - gap)).abs().max() < 0.2
    t = gaps(made["svi"], x, steps=400, M=4000)
    assert (np.abs(t.log_p - exact.numpy()) < 5 * t.se + 0.01).all() and abs(
        t.approximation.mean() - gap
    ) < 0.35
    worse = (mean.float() + 1.0, q[1])
    assert (elbo(made["svi"], x, worse) < elbo(made["svi"], x, q)).all()


def test_rows_of_the_table_are_used_for_training_images_only(digits):
    m = model_of(config(method="svi"), digits[0])
    x = latent_opt.images(digits[0], range(3))
    with torch.no_grad():
        m.table.weight[:3] = 7.0
    assert (m.codes(x, torch.arange(3))[0] == 7).all() and (m.codes(x)[0] != 7).all()
    assert gaps(m, x, torch.arange(3), 5, 5).amortization.mean() > 10 * abs(
        gaps(m, x, None, 5, 5).amortization.mean()
    )


# ---------------------------------------------------------------- what a run measures
@pytest.mark.parametrize("method", METHODS)
def test_measure_and_figures(digits, method):
    train, test = digits
    c = config(method=method, epochs=1)
    m = model_of(c, train)
    training.fit(m, train, c, progress=False)
    state = {k: v.clone() for k, v in m.state_dict().items()}
    metrics, arrays = latent_run.measure(m, train, test, c)
    assert all(torch.equal(v, state[k]) for k, v in m.state_dict().items()), (
        "measuring must not train"
    )
    json.dumps(metrics, allow_nan=False)
    assert (
        abs(
            metrics["objective_test"]
            - metrics["earlier_total_test"]
            - 392 * math.log(2 * math.pi * 0.16)
        )
        < 1e-3
    )
    assert metrics["seconds_per_new_image"] > 0 and len(metrics["log_p_by_class_test"]) == 10
    memory = io.BytesIO()
    np.savez_compressed(memory, **arrays)
    assert memory.tell() < 3_000_000
    memory.seek(0)
    for draw in latent_run.run_figures(dict(np.load(memory)), c).values():
        plt.close(draw())
    for v in latent_run.snapshot(m, train, c).values():
        assert v.dtype == np.uint8 and v.shape[1:] == (1, 28, 28)


def test_measure_with_few_classes(digits):
    train, test = (d.subset(np.flatnonzero(np.isin(d.y, (1, 7)))) for d in digits)
    c = config(method="map", epochs=1)
    m = model_of(c, train)
    _, arrays = latent_run.measure(m, train, test, c)
    for draw in latent_run.run_figures(arrays, c).values():
        plt.close(draw())


def test_frechet_is_the_formula():
    rng = np.random.default_rng(0)
    a, b = (
        rng.normal(size=(5000, 1, 1, 3)),
        rng.normal(size=(5000, 1, 1, 3)) * [1, 2, 3] + [0, 1, 0],
    )
    assert (
        abs(latent_run.frechet(a, b, 3) - (1 + 1 + 4)) < 0.5 and latent_run.frechet(b, b, 3) < 1e-8
    )


def test_rotation_is_exact_at_right_angles():
    x = torch.rand(2, 1, 28, 28)
    for k in range(4):
        assert torch.allclose(latent_opt.rotated(x, 90 * k), x.rot90(k, (2, 3)), atol=1e-4)


def test_principal_directions_are_those_of_the_covariance():
    z = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [3.0, 1.0, 0.5, 0.1]
    )
    mean, V, s = latent_run.principal(z, 2)
    lam = torch.linalg.eigvalsh(z.T.cov()).flip(0)[:2]
    assert (
        torch.allclose(s**2, lam, rtol=1e-4)
        and torch.allclose(mean, z.mean(0))
        and abs(V[0, 0]).item() > 0.99
    )


def test_the_explorer_follows_its_sliders(digits):
    m = model_of(config(method="svi"), digits[0])
    picture, controls = latent_run.explore(m, digits[0], k=2, rows=30).children
    seen = [picture.value]
    for k, v in ((1, 2.5), (0, "images"), (5, 0.5), (3, 9)):
        controls.children[k].value = v
        assert picture.value != seen[-1], k
        seen.append(picture.value)


def test_gap_configs_run_the_same_number_of_steps():
    cs = study.gap_configs("paper")
    assert (
        len({c.steps for c in cs}) == 1
        and len({(c.n, c.width) for c in cs}) == len(cs) == 6
        and cs[2].n == 20_000
    )
    table = study.gap_table(
        [
            (
                c,
                {"images_train": c.n}
                | {
                    f"{k}_{s}": 1.0
                    for k in ("elbo", "best", "log_p", "amortization", "approximation", "ess")
                    for s in ("train", "test")
                },
            )
            for c in cs
        ]
    )
    assert len(table) == 12 and set(table.n) == {1000, 4000, 20_000}


# ---------------------------------------------------------------- classifier
def test_the_classifier_learns_and_is_measured(digits):
    train = data.load("digits", "train")
    c = replace(preset("quick", "classifier"), width=8, epochs=4)
    m = study.classifier_of(c, train)
    training.fit(m, train, c, progress=False)
    metrics, arrays = study.measure_classifier(m, train, digits[1], c)
    right = (m.predict(latent_opt.images(digits[1])).numpy() == np.asarray(digits[1].y)).mean()
    assert metrics["accuracy_test"] == pytest.approx(right) and right > 0.8
    assert arrays["confusion"].sum() == 60 and arrays["confusion"].trace() == round(right * 60)
    assert len(arrays["wrong"]) == 60 - arrays["confusion"].trace()
    for draw in study.classifier_figures(arrays, c).values():
        plt.close(draw())
    assert torch.equal(
        study.classifier_of(c, train).net[0].weight,
        study.classifier_of(c, train).net[0].weight,
    )
