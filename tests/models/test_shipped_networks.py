"""The networks that come with the project, by the tests that a new one inherits."""

import pytest

from network_tests import NetworkTests


class TestCNN(NetworkTests):
    overrides = ("model=cnn", "model.net.channels=[8,8,8]", "model.net.hidden_size=16")


class TestMLP(NetworkTests):
    overrides = ("model=mlp", "model.net.hidden_sizes=[16]")


@pytest.mark.thorough  # eleven million weights; its kind is WideResNet's
class TestResNet18(NetworkTests):
    overrides = ("model=resnet18",)


class TestWideResNet(NetworkTests):
    overrides = ("model=wide_resnet", "model.net.depth=10", "model.net.width=1")


class TestTimm(NetworkTests):
    overrides = ("model=timm", "model.net.name=test_resnet")
