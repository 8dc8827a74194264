"""Put a finished run among the published results: its config, metrics and provenance, and its
history.

    # result.json, config.json -> amortized.json; history.csv -> amortized_history.csv
    python tools/publish.py RUN latent_opt/amortized
    python tools/publish.py RUN vae/mnist --weights vae-mnist   # and the weights, at half precision
    # figures.npz -> linear.npz, with config and provenance in linear.json: what its figures need
    python tools/publish.py RUN moe1991/linear --arrays
    # a table of many runs, with the provenance of one of them
    python tools/publish.py RUN latent_opt/gaps --table DIR/tables/latent-opt-gaps.csv

RUN is a run's folder, as `genmix train` and `genmix reproduce` leave it. Everything goes to
genmix/published of this clone.
"""

import argparse
from pathlib import Path
from types import SimpleNamespace

from genmix import runs
from genmix.configs import load_config, to_dict
from genmix.saving import write_atomic

PUBLISHED = Path(__file__).resolve().parent.parent / "genmix" / "published"


def publish(
    run: Path,
    name: str,
    table: Path | None = None,
    weights: str | None = None,
    arrays: bool = False,
    to: Path = PUBLISHED,
) -> list:
    "Write the files of one published result; returns their paths."
    result, config = runs.read_result(run), to_dict(load_config(run))
    target = to / name
    if arrays:
        about = {"config": config, "provenance": result["provenance"]}
        written = [
            write_atomic(target.with_name(f"{target.name}.npz"), (run / "figures.npz").read_bytes())
        ]
    elif table is not None:
        about = {"provenance": result["provenance"]}
        written = [write_atomic(target.with_name(f"{target.name}.csv"), table.read_bytes())]
    else:
        about = {"config": config, "metrics": result["metrics"], "provenance": result["provenance"]}
        written = [
            write_atomic(
                target.with_name(f"{target.name}_history.csv"), (run / "history.csv").read_bytes()
            )
        ]
    written.append(runs.save_json(target.with_name(f"{target.name}.json"), about))
    if weights:
        w = runs.load_weights(run / "model.safetensors")
        model = SimpleNamespace(state_dict=lambda: w.tensors)
        written.append(
            runs.save_weights(
                to / "weights" / f"{weights}.safetensors", model, w.config, w.provenance, half=True
            )
        )
    return written


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("name", help="SYSTEM/NAME, such as latent_opt/amortized")
    parser.add_argument("--table", type=Path, help="publish this CSV instead of the run's history")
    parser.add_argument(
        "--weights", metavar="NAME", help="publish the weights too, under this name"
    )
    parser.add_argument(
        "--arrays",
        action="store_true",
        help="publish the arrays that the run's figures need, instead of its numbers",
    )
    a = parser.parse_args()
    try:
        for path in publish(a.run, a.name, a.table, a.weights, a.arrays):
            print(
                f"wrote {path.relative_to(PUBLISHED.parent.parent)} "
                f"({path.stat().st_size / 1000:,.0f} kB)"
            )
    except (ValueError, OSError) as e:
        parser.exit(2, f"publish: error: {e}\n")


if __name__ == "__main__":
    main()
