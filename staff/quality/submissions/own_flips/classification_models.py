# own_flips: a random flip of the batch inside train_epoch, image and mask alike; plain VGG pairs, U-Net with additive skips.
import torch
import torch.nn as nn


class LinearModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.linear = nn.Linear(3 * 28 * 28, num_classes)

    def forward(self, x):
        B = x.shape[0]
        return self.linear(x.reshape(B, -1))


class MLPModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.hidden1 = nn.Linear(3 * 28 * 28, 512)
        self.hidden2 = nn.Linear(512, 256)
        self.hidden3 = nn.Linear(256, 128)
        self.output = nn.Linear(128, num_classes)
        self.act = nn.ReLU()

    def forward(self, x):
        B = x.shape[0]
        x = x.reshape(B, -1)
        for layer in (self.hidden1, self.hidden2, self.hidden3):
            x = self.act(layer(x))
        return self.output(x)


class CNNModel(nn.Module):
    """VGG style: two convolutions, then pooling"""

    def __init__(self, num_classes=9):
        super().__init__()

        def vgg(cin, cout):
            return [
                nn.Conv2d(cin, cout, 3, padding=1), nn.ReLU(),
                nn.Conv2d(cout, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(),
                nn.MaxPool2d(2),
            ]

        self.features = nn.Sequential(*vgg(3, 24), *vgg(24, 48), *vgg(48, 96))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(96 * 9, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, num_classes))

    def forward(self, x):
        return self.classifier(self.features(x))


def get_model(model_name, num_classes=9):
    models = {"linear": LinearModel, "mlp": MLPModel, "cnn": CNNModel}
    if model_name not in models:
        raise ValueError(f"unknown model {model_name!r}, choose from {sorted(models)}")
    return models[model_name](num_classes)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
