"""Labels that may be wrong, in the spirit of confident learning (arXiv:1911.00068)."""

import numpy as np


def suspected_label_errors(
    true: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, loss: np.ndarray, num_classes: int
) -> np.ndarray:
    """Samples of which the classifier is as sure that they are of another class as it is, on average, of that class.

    Args:
        true: (N,) int64, the labels; -1 without one.
        predicted: (N,) int64.
        confidence: (N,) probability of the predicted class.
        loss: (N,) cross-entropy: minus the logarithm of the label's probability; NaN without a label.
        num_classes: K.

    Returns:
        (M,) int64, positions of the samples, the surest first.
    """
    labelled = np.flatnonzero(true >= 0)
    of_label = np.exp(-loss[labelled].astype(np.float64))
    samples = np.bincount(true[labelled], minlength=num_classes)
    usual = np.bincount(true[labelled], of_label, num_classes) / np.maximum(samples, 1)
    usual[samples == 0] = np.inf  # nothing is known of how sure it usually is
    wrong = labelled[true[labelled] != predicted[labelled]]
    suspected = wrong[confidence[wrong] >= usual[predicted[wrong]]]
    margin = confidence[suspected] - np.exp(-loss[suspected].astype(np.float64))
    return suspected[np.argsort(-margin, kind="stable")]
