"A system of another package: a model that knows one mean image, with settings, figure and study."

from dataclasses import dataclass, replace

import pandas as pd
import torch
from genmix import runs, systems
from genmix.configs import FitConfig
from genmix.plots import caption, image_grid, subplots
from genmix.report import made_by
from genmix.systems import Figure, Headline, Study, System


@dataclass(frozen=True)
class ToyConfig(FitConfig):
    "Train a mean image (a toy)."

    data: str = "digits"  # images
    n: int = 100  # training images
    epochs: int = 2  # passes through them
    start: float = 0.5  # gray value to begin with
    shrink: int = 3  # a whole number of our own
    plots: bool = True  # draw figures


class Mean(torch.nn.Module):
    "One image for all."

    def __init__(self, shape, start):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.full(shape, start))

    def loss(self, batch, step, rng):
        return {"loss": (batch.x - self.mean).square().sum((1, 2, 3)).mean()}

    def reconstruct(self, x):
        return self.mean.expand_as(x)

    def sample(self, n, rng=None):
        return self.mean.expand(n, *self.mean.shape)


def model_of(c, train):
    return Mean(train.x.shape[1:], c.start)


def measure(model, train, test, c):
    x = torch.from_numpy(test.x[:]).to(model.mean.device) / 255
    with torch.no_grad():
        error = (x - model.mean).square().sum((1, 2, 3)).mean().item()
    mean = (model.mean.detach().clamp(0, 1) * 255).byte().cpu().numpy()
    return {"toy_error": error}, {"mean": mean}


def run_figures(arrays, c):
    return {"mean": lambda: caption(image_grid(arrays["mean"][None]), f"start {c.start:g}")}


def study(preset, name="auto"):
    base = ToyConfig(epochs=1 if preset == "debug" else 2)
    base = base if name == "auto" else replace(base, data=name)
    return [replace(base, start=start) for start in (0.25, 0.75)]


def write(part, preset, name, done):
    folders = [done[c] for c in study(preset, name)]
    df = runs.table(folders)[["start", "toy_error"]]
    part.say("What is the best start?")
    part.table("starts", df, made_by(folders))
    part.numbers["error"] = df.toy_error.min()
    fig, ax = subplots(height=2)
    ax.plot(df.start, df.toy_error, "o")
    part.figure("starts", fig, "Error by start", made_by(folders))
    part.run("the first", folders[0], "first")


def draw_published():
    fig, ax = subplots(height=2)
    ax.plot(pd.Series([1, 2]))
    return fig


systems.register(
    System(
        name="toy",
        settings=ToyConfig,
        presets={"quick": ToyConfig(), "debug": ToyConfig(epochs=1), "grey": ToyConfig(start=0.1)},
        model_of=model_of,
        measure=measure,
        figures=run_figures,
        shows={"mean": "the mean image"},
        metrics=("toy_error",),
        vary=("start",),
        published={"toy-line": Figure("a line", draw_published)},
        study=Study(
            title="A mean image",
            members=study,
            write=write,
            needs="images, such as digits",
            suits=lambda name: name in ("digits", "doodles"),
            headlines=(Headline("error", 1.0, "nowhere", lambda: 2.0, "made up for a test"),),
        ),
    )
)
