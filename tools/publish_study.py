"""Publish a study of chapter 04: the table of all runs, agreement between seeds, log p(x) of
chosen runs, arrays of two runs for figures.

    genmix sweep smoe-vae num_experts=1,3,5,10,20 fraction=.1,.4,1 seed=0,1,2,3,4 \\
        data=doodles n=10000 steps=1500 skip=.01 balanced=750 plots=no
    genmix sweep smoe-vae routing=compete num_experts=3,5,10,20 ...
    python tools/publish_study.py runs/smoe-vae

Any runs of smoe-vae will do: every finished run in the folder goes into the table. Everything
goes to genmix/published/smoe_vae of this clone.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from genmix import data, experiments, runs, smoe_vae
from genmix.configs import load_config, to_dict
from genmix.studies import smoe_run
from genmix.studies import smoe_vae as study

PUBLISHED = Path(__file__).resolve().parent.parent / "genmix" / "published" / "smoe_vae"
SWEEP = (
    "genmix sweep smoe-vae num_experts=1,3,5,10,20 fraction=.1,.4,1 seed=0,1,2,3,4 data=DATA "
    "steps=1500 skip=.01 balanced=750 plots=no"
)
NOTE = "n=10000 for doodles, mnist, fashion; all 14,000 for the 20 categories of quickdraw"


def log_p(folders, n, M):
    """log p(x) of n test images, the same for every run: as the mixture or around the blend, with
    sigma of equation 4.9, and with one fitted to training images.
    """
    rows = []
    for folder in folders:
        c = load_config(folder)
        test, train = data.load(c.data, "test", seed=0), data.load(c.data, "train", seed=0)
        x = torch.from_numpy(test.x[data.stratified(test.y, n, 0)]).float() / 255
        m, soft = experiments.load_model(folder), c.routing == "blend"
        seen = smoe_vae.view(m, train.subset(data.stratified(train.y, 500, 0)), seed=0, soft=True)
        fitted = float((seen["soft" if soft else "hard"].mean() / 784) ** 0.5)
        row = {
            k: getattr(c, k)
            for k in ("data", "n", "routing", "num_experts", "expert", "steps", "seed")
        }
        row["parameters"] = sum(p.numel() for p in m.experts.parameters())
        ways = {
            "": dict(soft=soft),
            "_as_mixture": dict(soft=False),
            "_fitted": dict(soft=soft, sigma=fitted),
        }
        for name, how in ways.items():
            parts = [m.log_prob(v, M, **how) for v in x.split(50)]
            row |= {
                f"log_p{name}": torch.cat([v.value for v in parts]).mean().item(),
                f"ess{name}": torch.cat([v.ess for v in parts]).median().item(),
            }
        rows.append(row | {"sigma_fitted": fitted, "images": len(x), "samples": M})
        print(
            {
                k: round(v, 2) if isinstance(v, float) else v
                for k, v in rows[-1].items()
                if k != "data"
            },
            flush=True,
        )
    return pd.DataFrame(rows)


def short(df):
    "quickdraw:airplane,... as quickdraw."
    return df.assign(data=df.data.str.partition(":")[0])


def about(folders, command, **more):
    results = [runs.read_result(f)["provenance"] for f in folders]
    kept = {k: results[0][k] for k in ("genmix", "torch", "numpy", "python", "machine", "threads")}
    return {
        "provenance": {
            "command": command,
            **kept,
            "data": sorted({r["data"] for r in results if r["seed"] == 0}),
            "runs": len(folders),
            "seconds": round(sum(r["seconds"] for r in results)),
            "date": max(r["date"] for r in results),
            **more,
        }
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="the folder smoe-vae of a runs folder")
    parser.add_argument("--images", type=int, default=200, help="test images for log p(x)")
    parser.add_argument("--samples", type=int, default=100, help="importance samples per image")
    a = parser.parse_args()
    folders = sorted(p.parent for p in a.runs.glob("*/result.json"))
    if not folders:
        parser.exit(2, f"publish_study: {a.runs} holds no finished run of smoe-vae\n")
    configs = {f: load_config(f) for f in folders}
    df = short(study.collect(folders)).sort_values(
        [
            "data",
            "routing",
            "balancing",
            "revive",
            "expert",
            "steps",
            "fraction",
            "num_experts",
            "seed",
        ]
    )
    runs.save_table(PUBLISHED / "study.csv", df, float_format="%.5g")
    runs.save_json(
        PUBLISHED / "study.json",
        about(
            folders,
            SWEEP,
            note=NOTE,
        ),
    )
    plain = [
        f
        for f, c in configs.items()
        if c.balancing == "quadratic"
        and not c.revive
        and c.skip
        and c.expert == "lite"
        and c.steps <= 1500
    ]
    if not plain:
        parser.exit(2, f"publish_study: {a.runs} holds no run of the main study\n")
    runs.save_table(
        PUBLISHED / "agreement.csv", short(study.agreements(plain)), float_format="%.4g"
    )
    runs.save_json(PUBLISHED / "agreement.json", about(plain, SWEEP))
    fixed = [
        f
        for f, c in configs.items()
        if c.data.startswith("quickdraw")
        and c.fraction == 1
        and c.balancing == "quadratic"
        and not c.revive
        and c.skip
        and c.num_experts in (1, 6, 10)
        and c.routing != "supervised"
        and c.seed < 3
    ]
    if fixed:
        start = time.time()
        runs.save_table(
            PUBLISHED / "log_p.csv", short(log_p(fixed, a.images, a.samples)), float_format="%.6g"
        )
        runs.save_json(
            PUBLISHED / "log_p.json",
            about(
                fixed,
                "python tools/publish_study.py RUNS",
                measuring_seconds=round(time.time() - start),
            ),
        )
    ten = [
        f
        for f, c in configs.items()
        if c.data.startswith("quickdraw") and c.num_experts == 10 and c.fraction == 1 and c.skip
    ]
    if ten:
        which = ("routing", "balancing", "revive", "seed")
        columns = ["step", "used", "val_used", "val_entropy"]
        histories = [
            pd.read_csv(f / "history.csv")[columns].assign(
                **{k: getattr(configs[f], k) for k in which}
            )
            for f in ten
        ]
        runs.save_table(PUBLISHED / "used.csv", pd.concat(histories), float_format="%.4g")
        runs.save_json(PUBLISHED / "used.json", about(ten, SWEEP))
    for routing in (
        "blend",
        "compete",
    ):  # the model again, and the pictures that the sweep did not make
        for f in plain:
            c = configs[f]
            if c.data.startswith("quickdraw") and (
                c.routing,
                c.num_experts,
                c.fraction,
                c.seed,
            ) == (routing, 10, 1.0, 0):
                _, task = experiments.load_images(c)
                _, arrays = smoe_run.measure(
                    experiments.load_model(f), task.train, task.test, replace(c, plots=True)
                )
                runs.save_arrays(PUBLISHED / f"{routing}.npz", arrays)
                runs.save_json(
                    PUBLISHED / f"{routing}.json", {"config": to_dict(c)} | about([f], SWEEP)
                )
    for p in sorted(PUBLISHED.iterdir()):
        print(
            f"{p.relative_to(PUBLISHED.parent.parent.parent)} ({p.stat().st_size / 1000:,.0f} kB)"
        )


if __name__ == "__main__":
    main()
