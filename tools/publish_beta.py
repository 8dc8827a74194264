"""Publish a study of chapter 05: a table of all runs, untrained encoders, arrays and weights.

    genmix sweep beta-vae data=sprites beta=1,4,16 lambda=0,8 seed=0,1,2 steps=10000 \\
        lambda_steps=3000 n=50000 lr=.0005 precision=bf16 channels_last=yes plots=no
    genmix sweep beta-vae data=rooms ...        # and so on: any runs with a second phase will do
    python tools/publish_beta.py runs/beta-vae  # or several such folders

Every finished run with a second phase goes into the table. Everything goes to
genmix/published/beta_vae and genmix/published/weights of this clone.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from genmix import beta_vae, data, experiments, metrics, runs
from genmix.configs import load_config, to_dict
from genmix.studies.beta_run import MEASURED, measure
from genmix.studies.beta_vae import collect, one_beta, summary
from joblib import Parallel, delayed

ALL = Path(__file__).resolve().parent.parent / "genmix" / "published"
PUBLISHED = ALL / "beta_vae"
HOW = "steps=10000 lambda_steps=3000 n=50000 lr=.0005 precision=bf16 channels_last=yes plots=no"
SHOWN = {
    "sprites": (16.0, 0.0),
    "rooms": (16.0, 0.0),
    "arms": (1.0, 0.0),
}  # beta, lambda of the runs with pictures and weights


def about(folders, command, **more):
    results = [runs.read_result(f)["provenance"] for f in folders]
    kept = {k: results[0][k] for k in ("genmix", "torch", "numpy", "python", "machine", "threads")}
    return {
        "provenance": {
            "command": command,
            **kept,
            "data": sorted({r["data"] for r in results}),
            "runs": len(folders),
            "seconds": round(sum(r["seconds"] for r in results)),
            "date": max(r["date"] for r in results),
            **more,
        }
    }


def commands(df):
    "The sweeps that made these runs, with the values that occur in them."

    def of(d, name):
        return name + "=" + ",".join(f"{v:g}" for v in sorted(d[name].unique()))

    said = []
    for (name, penalty, precision, again), g in df.groupby(
        ["data", "penalty", "precision", df.second_beta != df.beta], sort=False
    ):
        how = HOW.replace("precision=bf16", f"precision={precision}") + (
            " penalty=tc" if penalty == "tc" else ""
        )
        seeds = g.groupby(["beta", "second_beta", "lambda"]).seed.transform(
            lambda s: ",".join(map(str, sorted(s)))
        )
        for which, h in g.groupby(seeds, sort=False):
            swept = " ".join(of(h, k) for k in ("beta", *["second_beta"] * again, "lambda"))
            said.append(f"genmix sweep beta-vae data={name} {swept} seed={which} {how}")
    return "; ".join(said)


def measured(folder):
    """A run's row, its metrics computed again from the stored codes, with standard errors.

    So all rows have the same version of the metrics; the errors are bootstrapped.
    """
    row = collect([folder]).iloc[0].to_dict()
    s = runs.load_arrays(folder / "figures.npz")
    what = s["mu"], s["factors"], tuple(s["factor_sizes"])
    t, se = (
        metrics.evaluate(*what, MEASURED),
        metrics.standard_error(*what, ("mig", "sap", "im")),
    )
    return row | dict(zip(t.metric, t.value)) | dict(zip(se.metric + "_se", se.se))


def untrained(name, seed):
    """Metrics of codes of an encoder that was never trained, on the study's test images.

    Every code is scaled to variance 1, for SAP's sake.
    """
    test = data.load(name, "test", n=10_000, seed=0)
    model = beta_vae.model_of(
        replace(experiments.configs.preset("quick", "beta-vae"), data=name, seed=seed), test
    )
    mu = beta_vae.view(model, test)["mu"].astype(float)
    t = metrics.evaluate(
        (mu - mu.mean(0)) / mu.std(0), test.factors, test.factor_sizes, MEASURED
    )
    return {"data": name, "seed": seed, **dict(zip(t.metric, t.value))}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders beta-vae of runs folders")
    parser.add_argument(
        "--untrained",
        type=int,
        default=10,
        help="seeds of untrained encoders (0: keep the published table)",
    )
    a = parser.parse_args()
    folders = sorted(
        p.parent
        for folder in a.runs
        for p in folder.glob("*/result.json")
        if load_config(p.parent).lambda_steps
    )
    if not folders:
        where = ", ".join(map(str, a.runs))
        why = f"no finished run of beta-vae with a second phase in {where}"
        parser.exit(2, f"publish_beta: {why}\n")
    by = ["data", "penalty", "precision", "beta", "second_beta", "lambda"]
    df = pd.DataFrame(Parallel(-1)(delayed(measured)(f) for f in folders)).sort_values(
        [*by, "seed"]
    )
    runs.save_table(PUBLISHED / "study.csv", df, float_format="%.5g")
    df = pd.read_csv(PUBLISHED / "study.csv")  # summaries of what is published, with its digits
    runs.save_json(
        PUBLISHED / "study.json",
        about(folders, commands(df), note="seconds: with the first phase if it was not there yet"),
    )
    for name, d in df[df.precision == df.precision.mode()[0]].groupby("data"):
        runs.save_table(PUBLISHED / f"summary_{name}.csv", summary(d))
        runs.save_json(
            PUBLISHED / f"summary_{name}.json",
            about([f for f in folders if load_config(f).data == name], commands(d)),
        )
    if a.untrained:
        rows = Parallel(-1)(
            delayed(untrained)(name, seed)
            for name in sorted(set(df["data"]))
            for seed in range(a.untrained)
        )
        runs.save_table(PUBLISHED / "untrained.csv", pd.DataFrame(rows), float_format="%.5g")
        note = "encoders with random weights, codes scaled to variance 1, 10,000 test images"
        runs.save_json(
            PUBLISHED / "untrained.json",
            about(
                folders,
                "python tools/publish_beta.py RUNS",
                note=note,
                runs=len(rows),
                seconds=None,
            ),
        )
    for f in folders:
        c = load_config(f)
        if (
            c.seed
            or c.second_beta is not None
            or c.penalty == "tc"
            or c.precision != df.precision.mode()[0]
            or SHOWN.get(c.data) != (c.beta, c.lambda_)
        ):
            continue
        _, task = experiments.load_images(c)
        model = experiments.load_model(f)
        _, arrays = measure(model, task.train, task.test, replace(c, plots=True))
        kept = {k: v for k, v in arrays.items() if k not in ("mu", "factors")}
        kept["traversals"] = kept["traversals"][:3]
        runs.save_arrays(PUBLISHED / f"{c.data}.npz", kept)
        one = df[
            (df["data"] == c.data)
            & (df.seed == c.seed)
            & (df.beta == c.beta)
            & (df["lambda"] == c.lambda_)
        ]
        made = about([f], commands(one_beta(one)))
        runs.save_json(PUBLISHED / f"{c.data}.json", {"config": to_dict(c)} | made)
        runs.save_weights(
            ALL / "weights" / f"beta-vae-{c.data}.safetensors",
            model,
            c,
            runs.load_weights(f).provenance,
            half=True,
        )
    for p in sorted([*PUBLISHED.iterdir(), *(ALL / "weights").glob("beta-*")]):
        print(f"{p.relative_to(ALL.parent)} ({p.stat().st_size / 1000:,.0f} kB)")
    print(
        df.groupby(by)[["recon_test", "kl_test", "mig", "sap", "im"]].mean().round(3).to_string(),
        np.shape(df),
    )


if __name__ == "__main__":
    main()
