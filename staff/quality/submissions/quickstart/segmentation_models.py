# quickstart: after the PyTorch quickstart: zero_grad after the step, (X, y), .type(torch.float).sum().item().
import torch
from torch import nn


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(28 * 28 * in_channels, 28 * 28 * out_channels)
        self.unflatten = nn.Unflatten(1, (out_channels, 28, 28))
        self.sigmoid = nn.Sigmoid()

    def forward(self, x):
        return self.sigmoid(self.unflatten(self.linear(self.flatten(x))))


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.stack = nn.Sequential(
            nn.Flatten(),
            nn.Linear(28 * 28 * in_channels, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 28 * 28 * out_channels),
            nn.Unflatten(1, (out_channels, 28, 28)),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.stack(x)


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.stack = nn.Sequential(
            nn.Conv2d(in_channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(64, 32, 3, padding=1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, out_channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.stack(x)


def conv(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.ReLU(), nn.Conv2d(cout, cout, 3, padding=1), nn.ReLU())


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=16):
        super().__init__()
        c = base_channels
        self.down1, self.down2, self.middle = conv(in_channels, c), conv(c, 2 * c), conv(2 * c, 4 * c)
        self.upconv2, self.upconv1 = nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2)
        self.up2, self.up1 = conv(4 * c + 2 * c, 2 * c), conv(2 * c + c, c)
        self.last = nn.Conv2d(c, out_channels, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        x1 = self.down1(x)
        x2 = self.down2(self.pool(x1))
        x3 = self.middle(self.pool(x2))
        x = self.up2(torch.cat((self.upconv2(x3), x2), 1))
        x = self.up1(torch.cat((self.upconv1(x), x1), 1))
        return torch.sigmoid(self.last(x))


class DiceLoss(nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        intersection = (pred * target).sum(dim=(1, 2, 3))
        dice = (2 * intersection + self.smooth) / (pred.sum(dim=(1, 2, 3)) + target.sum(dim=(1, 2, 3)) + self.smooth)
        return (1 - dice).mean()


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.bce_weight, self.dice_weight = bce_weight, dice_weight
        self.bce_fn = nn.BCELoss()
        self.dice_fn = DiceLoss()

    def forward(self, pred, target):
        return self.bce_weight * self.bce_fn(pred, target) + self.dice_weight * self.dice_fn(pred, target)


def get_segmentation_model(model_name, in_channels=3, out_channels=1):
    models = {"linear": LinearSegmentation, "mlp": MLPSegmentation, "cnn": SimpleCNN, "unet": TinyUNet}
    if model_name not in models:
        raise ValueError(f"unknown model {model_name!r}, choose from {sorted(models)}")
    return models[model_name](in_channels, out_channels)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def calculate_iou(pred_mask, true_mask, threshold=0.5):
    pred_mask = torch.as_tensor(pred_mask)
    true_mask = torch.as_tensor(true_mask).to(pred_mask.device)
    pred = (pred_mask > threshold).flatten(1)
    true = (true_mask > threshold).flatten(1)
    intersection = (pred & true).sum(1).float()
    union = (pred | true).sum(1).float()
    iou = torch.where(union > 0, intersection / union.clamp(min=1), torch.ones_like(union))
    return iou.mean().item()
