"""A submission as an earlier term asked for it: no linear model, a sigmoid inside every model."""

import torch
import torch.nn as nn


def conv_block(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU())


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.out_channels = out_channels
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * 28 * 28, 512),
            nn.ReLU(),
            nn.Linear(512, out_channels * 28 * 28),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.net(x).view(x.size(0), self.out_channels, 28, 28)


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.encoder = nn.Sequential(
            conv_block(in_channels, 32), nn.MaxPool2d(2), conv_block(32, 64), nn.MaxPool2d(2), conv_block(64, 128)
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(128, 64, 2, stride=2),
            conv_block(64, 64),
            nn.ConvTranspose2d(64, 32, 2, stride=2),
            conv_block(32, 32),
            nn.Conv2d(32, out_channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.decoder(self.encoder(x))


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=16):
        super().__init__()
        c = base_channels
        self.enc1 = nn.Sequential(conv_block(in_channels, c), conv_block(c, c))
        self.enc2 = nn.Sequential(conv_block(c, 2 * c), conv_block(2 * c, 2 * c))
        self.bottleneck = nn.Sequential(conv_block(2 * c, 4 * c), conv_block(4 * c, 4 * c))
        self.pool = nn.MaxPool2d(2)
        self.up2 = nn.ConvTranspose2d(4 * c, 2 * c, 2, stride=2)
        self.dec2 = conv_block(4 * c, 2 * c)
        self.up1 = nn.ConvTranspose2d(2 * c, c, 2, stride=2)
        self.dec1 = conv_block(2 * c, c)
        self.out = nn.Conv2d(c, out_channels, 1)

    def forward(self, x):
        e1 = self.enc1(x)
        e2 = self.enc2(self.pool(e1))
        b = self.bottleneck(self.pool(e2))
        d2 = self.dec2(torch.cat([self.up2(b), e2], dim=1))
        d1 = self.dec1(torch.cat([self.up1(d2), e1], dim=1))
        return torch.sigmoid(self.out(d1))


def get_segmentation_model(model_name, in_channels=3, out_channels=1):
    models = {"mlp": MLPSegmentation, "cnn": SimpleCNN, "unet": TinyUNet}
    if model_name not in models:
        raise ValueError(f"Unknown model: {model_name}")
    return models[model_name](in_channels, out_channels)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def calculate_iou(pred_mask, true_mask, threshold=0.5):
    pred, true = torch.as_tensor(pred_mask) > threshold, torch.as_tensor(true_mask) > threshold
    pred, true = pred.reshape(pred.shape[0], -1), true.reshape(true.shape[0], -1)
    intersection, union = (pred & true).sum(1).float(), (pred | true).sum(1).float()
    return torch.where(union == 0, torch.ones_like(union), intersection / union.clamp(min=1)).mean().item()


class DiceLoss(nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        pred, target = pred.reshape(-1), target.reshape(-1)
        intersection = (pred * target).sum()
        return 1 - (2.0 * intersection + self.smooth) / (pred.sum() + target.sum() + self.smooth)


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.bce, self.dice = nn.BCELoss(), DiceLoss()
        self.bce_weight, self.dice_weight = bce_weight, dice_weight

    def forward(self, pred, target):
        return self.bce_weight * self.bce(pred, target) + self.dice_weight * self.dice(pred, target)
