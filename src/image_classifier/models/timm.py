"""Any network of the timm library."""

from collections.abc import Sequence

from torch import nn

from image_classifier.errors import UserError


def timm_network(image_shape: Sequence[int], num_classes: int, name: str, pretrained: bool = False) -> nn.Module:
    """Build a network by its timm name.

    Args:
        image_shape: Channels, height, width of the input.
        num_classes: Number of logits.
        name: Such as "resnet18", "convnext_atto", "efficientnet_b0"; see `timm.list_models()`.
        pretrained: Start from the published weights, downloaded on first use.

    Raises:
        UserError: timm is not installed, or does not know the name.
    """
    try:
        import timm
    except ImportError:
        raise UserError("expected the package timm, which model=timm needs; install it: make setup-dev") from None
    if not timm.is_model(name):
        similar = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5]) or "see timm.list_models()"
        raise UserError(f"expected the name of a timm network but found {name!r}; similar ones: {similar}")
    return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=image_shape[0])
