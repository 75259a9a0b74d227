"""Networks: torchvision's classifiers, fitted to the images and classes at hand. This file imports nothing heavy."""

FAMILIES = {
    "ResNet": ("resnet18", "resnet18_2223", "resnet34", "resnet50", "resnet101"),  # _2223: toolkit.backbones.build
    "DenseNet": ("densenet121", "densenet169", "densenet201"),
    "EfficientNet": ("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_v2_s"),
    "MobileNet": ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    "SqueezeNet": ("squeezenet1_0", "squeezenet1_1"),
}
NAMES = tuple(name for names in FAMILIES.values() for name in names)
