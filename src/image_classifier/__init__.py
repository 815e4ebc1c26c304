"""Image classification: train, see where the classifier goes wrong, compare runs, sweep."""

from image_classifier.engine.launch.threads import settle_waiting

settle_waiting()  # here, for it must come before anything imports torch
