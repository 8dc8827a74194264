"""Mixtures of experts and variational autoencoders, from 1991 to today, as notebooks that run.

Nothing is imported here: `from genmix.data import load`, `from genmix.runs import sweep` and so on.
`PUBLIC` lists the names that stay as they are from one minor version to the next (CONTRIBUTING.md
says how a change is announced); everything else in the modules is there to be read, and may change.
`FLOORS` says which room may import which: from its own floor and below.
"""

__version__ = "0.1.0"

FLOORS = (  # from the bottom to the top
    ("saving", "docstrings"),
    ("configs", "readers", "worlds", "plots"),
    ("data", "training", "runs", "metrics", "systems", "report", "parts"),
    ("moe1991", "vae", "latent_opt", "smoe_vae", "beta_vae", "priors", "vlae", "architectures"),
    ("studies",),
    ("experiments", "figures", "reproduce"),
    ("cli",),
)

PUBLIC = {  # module -> its stable names: nbs/api.ipynb shows them, tests/test_api.py checks them
    "data": [
        "load",
        "ImageData",
        "listing",
        "fetch",
        "binarize",
        "fixed_binarization",
        "four_vowels",
        "FourVowels",
        "VowelData",
        "DataError",
    ],
    "experiments": ["train", "load_model", "draw_samples", "sweep_runs"],
    "reproduce": ["reproduce"],
    "configs": [
        "MoE1991Config",
        "Table1Config",
        "FitConfig",
        "VAEConfig",
        "LatentOptConfig",
        "ClassifierConfig",
        "SMoEVAEConfig",
        "BetaVAEConfig",
        "VLAEConfig",
        "PRESETS",
        "preset",
        "preset_names",
        "to_dict",
        "from_dict",
        "load_config",
        "ConfigError",
    ],
    "moe1991": ["MixtureOfExpertsClassifier", "BackpropClassifier"],
    "vae": [
        "VAE",
        "model_of",
        "Bernoulli",
        "Gaussian",
        "ContinuousBernoulli",
        "kl_normal",
        "log_normal",
        "reparameterize",
        "active_units",
        "LogProb",
        "VAEError",
    ],
    "latent_opt": ["Amortized", "SVI", "MAP", "SemiAmortized", "model_of", "infer", "elbo", "gaps"],
    "smoe_vae": ["SMoEVAE", "model_of"],
    "beta_vae": ["BetaVAE", "model_of", "total_correlation", "traverse"],
    "vlae": ["VLAE", "model_of", "bayes"],
    "metrics": [
        "evaluate",
        "mig",
        "im",
        "Assignment",
        "sap",
        "dci",
        "DCI",
        "factor_vae_score",
        "beta_vae_score",
        "modularity",
        "explicitness",
        "floor",
        "standard_error",
        "per_factor",
        "MetricError",
    ],
    "training": ["fit", "Batch", "Noise", "TrainingError"],
    "runs": [
        "run",
        "sweep",
        "Swept",
        "table",
        "summarize",
        "published",
        "Published",
        "published_names",
        "pretrained",
        "pretrained_table",
        "Weights",
        "load_weights",
        "save_weights",
        "RunError",
    ],
    "systems": ["System", "Study", "Headline", "Figure", "register", "find"],
    "figures": ["FIGURES", "draw"],
    "plots": ["image_grid", "heatmap", "caption", "save", "save_gif"],
}

# and of the classes among them, beside constructor and fields, the methods of these names
METHODS = [
    "fit",
    "predict",
    "predict_proba",
    "gate",  # classifiers
    "loss",
    "encode",
    "codes",
    "decode",
    "reconstruct",
    "sample",
    "log_prob",
    "log_joint",  # models of images
    "prepare",
    "mean",
    "normal",
    "uniform",
    "describe",
    "subset",
    "fingerprint",
    "into",  # likelihoods, noise, data, weights
]
