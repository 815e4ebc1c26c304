"""Data sets that come with the project, by the tests that a new one inherits."""

from data_tests import DataTests


class TestSynthetic(DataTests):
    overrides = ("data=synthetic", "data.num_samples=200", "data.image_size=8", "data.num_classes=4")
