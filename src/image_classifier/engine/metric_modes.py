"""Whether more or less of a metric is better, as far as its name says. Imports no torch."""

import re

LESS_IS_BETTER = {"loss", "error", "err", "ece", "mse", "mae", "rmse", "nll", "perplexity", "brier", "hamming"}
MORE_IS_BETTER = {
    "acc", "accuracy", "f1", "fbeta", "precision", "recall", "specificity", "sensitivity", "auroc", "auc", "ap", "map",
    "mcc", "kappa", "jaccard", "iou", "dice", "top3", "top5",
}  # fmt: skip


def metric_mode(name: str | None) -> str | None:
    """ "max" or "min" for a metric such as "val/macro_f1", or None when its name does not tell."""
    words = set(re.split(r"[^a-z0-9]+", str(name).rpartition("/")[2].lower()))
    less, more = bool(words & LESS_IS_BETTER), bool(words & MORE_IS_BETTER)
    if less == more:
        return None
    return "min" if less else "max"
