# average_meter: AverageMeter of the ImageNet example; SGD with momentum at 30 times the learning rate; dense (DenseNet-like) CNN; own LeakyReLU U-Net.
import torch
import torch.nn as nn


class LinearModel(nn.Module):
    def __init__(self, num_classes=9):
        super(LinearModel, self).__init__()
        self.classifier = nn.Linear(3 * 28 * 28, num_classes)

    def forward(self, x):
        return self.classifier(torch.flatten(x, start_dim=1))


class MLPModel(nn.Module):
    def __init__(self, num_classes=9):
        super(MLPModel, self).__init__()
        self.classifier = nn.Sequential(
            nn.Dropout(0.1),
            nn.Linear(3 * 28 * 28, 512),
            nn.ReLU(inplace=True),
            nn.Dropout(0.1),
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
            nn.Linear(512, num_classes),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(x, start_dim=1))


class DenseLayer(nn.Module):
    def __init__(self, channels, growth):
        super(DenseLayer, self).__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, x):
        new = self.conv(torch.relu(self.norm(x)))
        return torch.cat([x, new], dim=1)


class CNNModel(nn.Module):
    def __init__(self, num_classes=9):
        super(CNNModel, self).__init__()
        layers, channels = [nn.Conv2d(3, 32, 3, padding=1, bias=False)], 32
        for stage in range(3):
            for _ in range(2):
                layers.append(DenseLayer(channels, 24))
                channels += 24
            if stage < 2:
                layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
                channels //= 2
        layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


def get_model(model_name, num_classes=9):
    models = {"linear": LinearModel, "mlp": MLPModel, "cnn": CNNModel}
    if model_name not in models:
        raise ValueError(f"unknown model {model_name!r}, choose from {sorted(models)}")
    return models[model_name](num_classes)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
