"""torchvision's ResNets with a stem fit for small images."""

from collections.abc import Sequence

import torchvision
from torch import nn

from image_classifier.engine.errors import UserError


def resnet(
    image_shape: Sequence[int], num_classes: int, name: str = "resnet18", small_images: bool = True
) -> nn.Module:
    """Build one of torchvision's ResNets.

    Args:
        image_shape: Channels, height, width of the input.
        num_classes: Number of logits.
        name: "resnet18", "resnet34", "resnet50", ...
        small_images: Use a 3 x 3 stem without the early down-sampling by 4 (the CIFAR variant of
            arXiv:1512.03385), which would leave a single pixel of a 28 x 28 image.

    Raises:
        UserError: torchvision has no ResNet of that name.
    """
    names = [name for name in torchvision.models.list_models() if name in torchvision.models.resnet.__all__]
    if name not in names:
        raise UserError(
            f"expected model.net.name to be one of {', '.join(names)} but found {name!r}; "
            "for example model.net.name=resnet18"
        )
    network = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    channels = network.conv1.out_channels
    if small_images:
        network.conv1 = nn.Conv2d(image_shape[0], channels, kernel_size=3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    else:
        network.conv1 = nn.Conv2d(image_shape[0], channels, kernel_size=7, stride=2, padding=3, bias=False)
    return network
