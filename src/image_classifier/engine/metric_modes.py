"""Whether more or less of a metric is better, as far as its name says. Imports no torch."""

import re

LESS_IS_BETTER = {"loss", "error", "err", "ece", "mse", "mae", "rmse", "nll", "perplexity", "brier", "hamming"}
MORE_IS_BETTER = {
    "acc", "accuracy", "f1", "fbeta", "precision", "recall", "specificity", "sensitivity", "auroc", "auc", "ap", "map",
    "mcc", "kappa", "jaccard", "iou", "dice", "top3", "top5",
}  # fmt: skip
STAGES = ("train", "val", "test")


def metric_mode(name: str | None) -> str | None:
    """ "max" or "min" for a metric such as "val/macro_f1", or None when its name does not tell.

    What a class is called tells nothing: of "val/recall/hair_loss" more is better.
    """
    words = set(re.split(r"[^a-z0-9]+", own_name(str(name)).lower()))
    less, more = bool(words & LESS_IS_BETTER), bool(words & MORE_IS_BETTER)
    if less == more:
        return None
    return "min" if less else "max"


def own_name(key: str) -> str:
    """That of the metric alone, without the stage before it and the class behind it."""
    parts = key.removeprefix("per_class/").split("/")
    return parts[1] if parts[0] in STAGES and len(parts) > 1 else parts[0]
