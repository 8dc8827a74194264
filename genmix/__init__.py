"""Mixtures of experts and variational autoencoders, from 1991 to today, as notebooks that run.

genmix.data (find, fetch, read), genmix.synthetic (data made from a formula), genmix.moe1991 (adaptive mixtures of local experts),
genmix.plots, genmix.figures, genmix.experiments (what `genmix reproduce` runs), genmix.configs and genmix.cli (the `genmix` command).
"""

__version__ = "0.1.0"
