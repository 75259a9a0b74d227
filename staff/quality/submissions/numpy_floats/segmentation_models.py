# numpy_floats: results are numpy floats (np.average of lists); three input channels written as 3; Dice over the whole batch; small functions.
import numpy as np
import torch
from torch import nn


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.fc = nn.Linear(3 * 28 * 28, 28 * 28)

    def forward(self, x):
        y = self.fc(x.reshape(len(x), -1))
        return torch.sigmoid(y).reshape(len(x), 1, 28, 28)


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.fc1 = nn.Linear(3 * 28 * 28, 600)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(600, 28 * 28)

    def forward(self, x):
        y = self.fc2(self.act(self.fc1(x.reshape(len(x), -1))))
        return torch.sigmoid(y).reshape(len(x), 1, 28, 28)


def conv_bn(n_in, n_out, k=3):
    return nn.Sequential(nn.Conv2d(n_in, n_out, k, padding=k // 2), nn.BatchNorm2d(n_out), nn.ReLU())


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.encoder = nn.Sequential(conv_bn(3, 32, 5), nn.MaxPool2d(2), conv_bn(32, 64, 5), nn.MaxPool2d(2), conv_bn(64, 128))
        self.decoder = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), conv_bn(128, 64),
            nn.Upsample(scale_factor=2, mode="nearest"), conv_bn(64, 32),
        )
        self.head = nn.Conv2d(32, 1, 1)

    def forward(self, x):
        return torch.sigmoid(self.head(self.decoder(self.encoder(x))))


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=24):
        super().__init__()
        b = base_channels
        self.enc1 = nn.Sequential(conv_bn(in_channels, b), conv_bn(b, b))
        self.enc2 = nn.Sequential(conv_bn(b, 2 * b), conv_bn(2 * b, 2 * b))
        self.mid = nn.Sequential(conv_bn(2 * b, 4 * b), conv_bn(4 * b, 4 * b))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.dec2 = conv_bn(6 * b, 2 * b)
        self.dec1 = conv_bn(3 * b, b)
        self.head = nn.Conv2d(b, out_channels, 1)

    def forward(self, x):
        e1 = self.enc1(x)
        e2 = self.enc2(self.pool(e1))
        m = self.mid(self.pool(e2))
        d2 = self.dec2(torch.cat([self.up(m), e2], 1))
        d1 = self.dec1(torch.cat([self.up(d2), e1], 1))
        return self.head(d1).sigmoid()


class DiceLoss(nn.Module):
    def __init__(self, smooth=1):
        super().__init__()
        self.smooth = smooth

    def forward(self, inputs, targets):
        # flatten label and prediction tensors
        inputs = inputs.reshape(-1)
        targets = targets.reshape(-1)
        intersection = (inputs * targets).sum()
        dice = (2. * intersection + self.smooth) / (inputs.sum() + targets.sum() + self.smooth)
        return 1 - dice


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.losses = nn.ModuleList([nn.BCELoss(), DiceLoss()])

    def forward(self, pred, target):
        weights = [self.bce_weight, self.dice_weight]
        return sum(w * loss(pred, target) for w, loss in zip(weights, self.losses))


def get_segmentation_model(model_name, in_channels=3, out_channels=1):
    models = {"linear": LinearSegmentation, "mlp": MLPSegmentation, "cnn": SimpleCNN, "unet": TinyUNet}
    if model_name not in models:
        raise ValueError(f"unknown model {model_name!r}, choose from {sorted(models)}")
    return models[model_name](in_channels, out_channels)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def calculate_iou(pred_mask, true_mask, threshold=0.5):
    if torch.is_tensor(pred_mask):
        pred_mask = pred_mask.detach().cpu().numpy()
    if torch.is_tensor(true_mask):
        true_mask = true_mask.detach().cpu().numpy()
    ious = []
    for p, t in zip(pred_mask, true_mask):
        p = p > threshold
        t = t > threshold
        union = np.logical_or(p, t).sum()
        if union == 0:
            ious.append(1.0)
        else:
            ious.append(np.logical_and(p, t).sum() / union)
    return float(np.mean(ious))
