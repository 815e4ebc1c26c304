import numpy as np

from image_classifier.engine.confusion.label_errors import suspected_label_errors


def test_wrong_labels_are_found_and_hard_samples_are_not() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 600)
    probabilities = np.full((600, 3), 0.05)
    probabilities[np.arange(600), truth] = 0.9
    hard = np.arange(0, 60)  # unsure, and wrong
    probabilities[hard] = 0.1
    probabilities[hard, (truth[hard] + 1) % 3] = 0.6
    probabilities[hard, truth[hard]] = 0.3
    labels = truth.copy()
    swapped = np.arange(100, 120)
    labels[swapped] = (truth[swapped] + 1) % 3
    labels[599] = -1
    loss = -np.log(probabilities[np.arange(600), labels])
    loss[599] = np.nan
    found = suspected_label_errors(labels, probabilities.argmax(1), probabilities.max(1), loss, 3)
    assert sorted(found.tolist()) == swapped.tolist()


def test_the_definition_sample_by_sample() -> None:
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet(np.ones(4), 200)
    labels = generator.integers(0, 3, 200)  # class 3 has no sample
    loss = -np.log(probabilities[np.arange(200), labels])
    usual = [probabilities[labels == index, index].mean() for index in range(3)] + [np.inf]
    expected = []
    for row, label in enumerate(labels):
        best = int(probabilities[row].argmax())
        if best != label and probabilities[row, best] >= usual[best]:
            expected.append((probabilities[row, label] - probabilities[row, best], row))
    found = suspected_label_errors(labels, probabilities.argmax(1), probabilities.max(1), loss, 4)
    assert found.tolist() == [row for _, row in sorted(expected)]
