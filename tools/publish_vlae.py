"""Publish a study of chapter 06: the table of all runs, and arrays and weights of chosen ones.

    genmix train vlae --preset mnist --prior flow             # and none, gaussian: the ablation
    genmix sweep vlae --preset mnist epochs=6 samples=200 images=300 window=1x1,3x2,5x3,7x4,11x6
    genmix sweep vlae --preset mnist epochs=6 samples=200 images=300 window=5x3 \\
        prior=flow,class,class-flow,two-level
    genmix train vlae --preset mnist --epochs 8 --samples 200 --images 300 --window 5 3 \\
        --prior class --width 16                              # with weights
    genmix train vlae --preset earlier-two-level              # and one epoch of it, five seeds
    python tools/publish_vlae.py runs/vlae

Every finished run goes into the table. Everything goes to genmix/published/vlae and
genmix/published/weights of this clone.
"""

import argparse
from dataclasses import fields
from pathlib import Path

import numpy as np
from genmix import experiments, runs
from genmix.configs import NAMED, load_config, to_dict
from genmix.studies import vlae, vlae_run

ALL = Path(__file__).resolve().parent.parent / "genmix" / "published"
PUBLISHED = ALL / "vlae"


def command(c):
    "The command that trains with these settings."
    name = "mnist" if c.channels else "earlier-two-level"
    flags = []
    for f in fields(c):
        v = getattr(c, f.name)
        if v != getattr(NAMED[name], f.name):
            option = f.name.replace("_", "-")
            flags.append(
                f"--{'' if v else 'no-'}{option}"
                if isinstance(v, bool)
                else f"--{option} {' '.join(map(str, v)) if isinstance(v, tuple) else v}"
            )
    return " ".join(["genmix train vlae --preset", name, *flags])


def about(folders, **more):
    results = [runs.read_result(f)["provenance"] for f in folders]
    kept = {k: results[0][k] for k in ("genmix", "torch", "numpy", "python", "machine")} | {
        "threads": results[0]["threads"]
    }
    commands = "; ".join(command(load_config(f)) for f in folders)
    seconds = round(sum(r[k] for r in results for k in ("training_seconds", "measuring_seconds")))
    return {
        "provenance": {
            "command": commands,
            **kept,
            "data": sorted({r["data"] for r in results}),
            "runs": len(folders),
            "seconds": seconds,
            "date": max(r["date"] for r in results),
            **more,
        }
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="folder vlae of a runs folder")
    a = parser.parse_args()
    folders = sorted(p.parent for p in a.runs.glob("*/result.json"))
    if not folders:
        parser.exit(2, f"publish_vlae: no finished run of vlae in {a.runs}\n")
    df = vlae.collect(folders)
    df["folder"] = [f.name for f in folders]
    df = df.sort_values(
        ["channels", "steps", "prior", "sees", "width", "seed"],
        ascending=[False, False, True, True, False, True],
    ).reset_index(drop=True)
    runs.save_table(PUBLISHED / "study.csv", df.drop(columns="folder"), float_format="%.6g")
    runs.save_json(PUBLISHED / "study.json", about(folders))
    network = df[df.channels > 0]
    shown = {
        "flow": network[(network.prior == "flow")].sort_values("steps").folder.iloc[-1],
        "class": network[(network.prior == "class")].sort_values("steps").folder.iloc[-1],
    }
    for name, folder in shown.items():
        folder = a.runs / folder
        _, task = experiments.load_images(load_config(folder))
        caption = np.array(vlae_run.about(task.train, load_config(folder)))
        runs.save_arrays(
            PUBLISHED / f"{name}.npz",
            runs.load_arrays(folder / "figures.npz") | {"caption": caption},
        )
        runs.save_json(
            PUBLISHED / f"{name}.json",
            {"config": to_dict(load_config(folder)), "metrics": runs.read_result(folder)["metrics"]}
            | about([folder]),
        )
    folder = a.runs / shown["class"]
    runs.save_weights(
        ALL / "weights" / "vlae-mnist-class.safetensors",
        experiments.load_model(folder),
        load_config(folder),
        runs.load_weights(folder).provenance,
        half=True,
    )
    for p in sorted([*PUBLISHED.iterdir(), *(ALL / "weights").glob("vlae-*")]):
        print(f"{p.relative_to(ALL.parent)} ({p.stat().st_size / 1000:,.0f} kB)")
    print(vlae.summary(df).round(2).to_string())


if __name__ == "__main__":
    main()
