"""What the chapters say about speed, sentence by sentence: the one place that `python -m
benchmarks` compares its ratios with.

Every result that a benchmark yields has at least one line here. `words` stand in the chapter's
notebook, and the number follows from them (tests/test_benchmarks.py), so that a sentence cannot
change without this table.

kind: "at least"     the ratio is the number or more
      "about"        the number is a measured one, or rounded in words: at least .8 of it
      "faster"       the sentence has no number: the ratio is above 1
      "costs about"  the ratio is what ours costs more: at most 1.25 of the number
      "none"         the chapter promises nothing, it only names the benchmark or what it compares
"""

from collections import namedtuple

SLACK = 0.8

Promise = namedtuple("Promise", "benchmark result chapter ours baseline kind number words")


def table():
    lines = []

    def chapter(benchmark, notebook):
        def say(result, ours, baseline, kind, number, words):
            lines.append(Promise(benchmark, result, notebook, ours, baseline, kind, number, words))

        return say

    say = chapter("readers", "00d_files")
    words = (
        "Each row compares a reader with the shortest program that reads the same file and checks "
        "nothing"
    )
    say(
        "sketch-rnn, np.load(allow_pickle)",
        "QuickDraw, read by a machine of its own",
        "np.load(allow_pickle=True)",
        "costs about",
        2.6,
        "costs 2.6 times as much as `np.load(allow_pickle=True)`",
    )
    say(
        "sketch-rnn, subclass of pickle._Unpickler",
        "QuickDraw, read by that machine",
        "a restricted pickle._Unpickler",
        "none",
        None,
        words,
    )
    say(
        "idx, gzip + np.frombuffer",
        "a gzipped idx file, checked",
        "gzip and np.frombuffer",
        "costs about",
        0.15 / 0.09,
        "takes 0.15 s, of which 0.09 s go into decompressing",
    )
    say("npz, compressed, np.load", "an npz file, checked", "np.load", "none", None, words)
    say(
        "dSprites npz, np.load, all in memory",
        "part of dSprites, in blocks",
        "np.load, all in memory",
        "none",
        None,
        words,
    )
    say(
        "Shapes3D h5, h5py, all in memory",
        "part of Shapes3D, in blocks",
        "h5py, all in memory",
        "none",
        None,
        words,
    )

    say, words = (
        chapter("worlds_strokes", "00f_strokes"),
        "`python -m benchmarks.worlds_strokes` measures it next to Pillow on your machine",
    )
    for detail, times in ((1, 2), (2, 4), (4, 4)):
        say(
            f"detail {detail}, Pillow at {times}x",
            f"drawings in one batch, detail {detail}",
            f"Pillow, one by one, {times}x as large",
            "none",
            None,
            words,
        )

    say = chapter("worlds_sprites", "00h_sprites")
    words = "How fast they are drawn and read is measured in `benchmarks/worlds_sprites.py`"
    say(
        "render / Pillow polygon, one by one",
        "sprites drawn in batches",
        "Pillow's polygon, one by one",
        "none",
        None,
        words,
    )
    say(
        "render / matplotlib contains_points, one by one",
        "sprites drawn in batches",
        "matplotlib's contains_points",
        "none",
        None,
        words,
    )
    say(
        "packed file / array of bytes in memory (50,000 images)",
        "sprites read from the packed file",
        "an array of bytes in memory",
        "none",
        None,
        words,
    )
    say(
        "packed file / render",
        "sprites read from the packed file",
        "drawing them again",
        "faster",
        None,
        "should not draw them a hundred times",
    )

    say, rays = chapter("worlds_rooms", "00i_rooms"), "rays, picture by picture"
    say(
        "warm, large batches",
        "rooms as sums of layers",
        rays,
        "about",
        1000,
        "draws pictures about a thousand times faster than rays do",
    )
    say(
        "warm, batches of 64",
        "rooms as sums of layers, 64 at a time",
        rays,
        "none",
        None,
        "it replaces rays by additions",
    )
    say(
        "cold, large batches",
        "rooms from an empty table",
        rays,
        "about",
        10,
        "a first batch of 2,048, from an empty table, about ten times as many",
    )

    say, words = chapter("worlds_arms", "00j_arms"), "every ray of every pixel meets every solid"
    say("warm, large batches", "arms painted from tables", rays, "none", None, words)
    say("warm, batches of 64", "arms painted from tables, 64 at a time", rays, "none", None, words)
    say("cold, large batches", "arms painted, tables made first", rays, "none", None, words)

    say, words = (
        chapter("moe1991", "01a_moe_tools"),
        "`benchmarks/moe1991.py` measures the gain against the loop that one would write first",
    )
    for system in ("4 experts", "8 experts", "BP, 6 hidden", "BP, 12 hidden"):
        say(
            system,
            f"25 runs trained together: {system}",
            "one run after another",
            "faster",
            None,
            words,
        )
    say(
        "4 experts, fresh arrays",
        "arrays allocated once",
        "fresh arrays in every epoch",
        "about",
        2,
        "fresh arrays in every epoch cost as much time in page faults as all the arithmetic",
    )
    say(
        "4 experts, fresh arrays, PyTorch loaded",
        "arrays allocated once, after loading PyTorch",
        "fresh arrays in every epoch",
        "none",
        None,
        "live in memory that is allocated once",
    )

    say, loader = chapter("training", "02a_training"), "the better of two DataLoaders"
    simple = (
        "about one and a half times the better loader is reached by the two simpler ones in full "
        "precision"
    )
    say(
        "seeding one generator",
        "a seed for the one generator in use",
        "torch.manual_seed",
        "about",
        80,
        "`torch.manual_seed` takes 80 microseconds even without a GPU, a seed for the one "
        "generator in use takes one",
    )
    say("conv, batch 128, fit", "fit: conv, batch 128", loader, "about", 1.5, simple)
    say("bottleneck, batch 64, fit", "fit: bottleneck, batch 64", loader, "about", 1.5, simple)
    say(
        "residual, batch 128, fit, bf16",
        "fit: residual, batch 128, bf16",
        loader,
        "about",
        1.5,
        simple + ", and by `residual`, which computes most, only with `bf16`",
    )
    say(
        "conv, batch 128, memory given back",
        "fit keeps its memory: conv, batch 128",
        "fit gives it back",
        "faster",
        None,
        "Memory that stays is the cheapest gain of all",
    )

    say, their = chapter("smoe_vae", "04_smoe_vae"), "the published structure"
    training = "training is more than twice as fast with 5 experts and seven to eight times with 50"
    undecided = "a quarter of a second per step in place of one"
    say("K = 5, training", "20 epochs, 5 experts", their, "at least", 2, training)
    say("K = 50, training", "20 epochs, 50 experts", their, "at least", 7, training)
    say(
        "K = 50, step at epoch 1",
        "a step, 50 experts, the gate undecided",
        their,
        "about",
        4,
        undecided,
    )
    say(
        "K = 50, step at epoch 16",
        "a step, 50 experts, the gate decided",
        their,
        "about",
        10,
        undecided
        + ", while the gate is undecided), and sparsity (a tenth, when it has made up its mind)",
    )
    words = "in slices at epochs 1, 2, 4, 8 and 16"
    say(
        "K = 5, step at epoch 1",
        "a step, 5 experts, the gate undecided",
        their,
        "none",
        None,
        words,
    )
    say(
        "K = 5, step at epoch 16", "a step, 5 experts, the gate decided", their, "none", None, words
    )
    for K in (5, 50):
        say(
            f"K = {K}, evaluation",
            f"evaluation, {K} experts",
            their,
            "none",
            None,
            "calls the chosen expert image by image when it evaluates",
        )
        say(
            f"K = {K}, decoding",
            f"decoding by one expert of {K}",
            their,
            "at least",
            6,
            "hard decoding six to nineteen times",
        )

    say = chapter("metrics", "05a_metrics")
    say(
        "SAP's accuracies",
        "SAP by support vector machines on a line",
        "scikit-learn's LinearSVC",
        "at least",
        3,
        "several times as fast as the better of the two",
    )
    say(
        "mutual information",
        "mutual information, counted at once",
        "loops over codes and factors",
        "none",
        None,
        "agrees with its definition written as a slow loop",
    )
    say(
        "DCI by boosting or by a forest",
        "DCI by a random forest",
        "DCI by gradient boosting",
        "faster",
        None,
        "random forests are much faster and give other numbers",
    )

    say = chapter("beta_vae", "05g_beta_stack")
    words = "On CPUs single-thread processes, one per core, are faster"
    say(
        "processes against stacked",
        "four models in one-thread processes",
        "four models as one stack",
        "faster",
        None,
        words,
    )
    say(
        "processes against in turn",
        "four models in one-thread processes",
        "one after the other, all cores",
        "none",
        None,
        words,
    )
    say(
        "stacked against in turn",
        "four models as one stack",
        "one after the other, all cores",
        "none",
        None,
        "so `Stack` trains a whole set as one",
    )

    say = chapter("vlae", "06_vlae")
    say(
        "drawing, waves against a pass per pixel",
        "digits drawn wave by wave",
        "a pass through the network per pixel",
        "at least",
        784 / 190,
        "takes 190 waves instead of 784 passes",
    )
    return lines


PROMISES = table()


def keeps(kind, number, median):
    "Does a median ratio keep a promise? None: nothing was promised."
    if kind == "none":
        return None
    return {
        "at least": lambda: median >= number,
        "about": lambda: median >= SLACK * number,
        "faster": lambda: median > 1,
        "costs about": lambda: median <= number / SLACK,
    }[kind]()


def verdict(kind, number, r):
    "`yes`; or `no`, and whether at least one pair kept the promise; `-` if nothing was promised."
    kept = keeps(kind, number, r["median"])
    if kept is None:
        return "-"
    if kept:
        return "yes"
    return (
        "no, but in some pairs"
        if keeps(kind, number, r["least" if kind == "costs about" else "largest"])
        else "no"
    )


def written(kind, number):
    "A promise as it stands in the table."
    if kind in ("none", "faster"):
        return {"none": "-", "faster": "> 1"}[kind]
    return {"at least": ">= ", "about": "~ ", "costs about": "cost ~ "}[kind] + (
        f"{number:.3g}" if number < 100 else f"{number:,.0f}"
    )
