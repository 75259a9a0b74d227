# clipping: gradient clipping in both training loops; AlexNet-like CNN with a global pool, GroupNorm.
import numpy as np
import torch
import torch.nn as nn


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.out_channels = out_channels
        self.layer = nn.Linear(28 * 28 * in_channels, 28 * 28 * out_channels)

    def forward(self, x):
        x = self.layer(x.view(x.shape[0], -1))
        x = x.view(x.shape[0], self.out_channels, 28, 28)
        return torch.sigmoid(x)


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.out_channels = out_channels
        self.net = nn.Sequential(
            nn.Linear(28 * 28 * in_channels, 512), nn.LeakyReLU(0.1), nn.Linear(512, 256), nn.LeakyReLU(0.1),
            nn.Linear(256, 28 * 28 * out_channels),
        )

    def forward(self, x):
        x = self.net(x.view(x.shape[0], -1))
        x = x.view(x.shape[0], self.out_channels, 28, 28)
        return torch.sigmoid(x)


def conv_gn(cin, cout, stride=1):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, stride=stride, padding=1), nn.GroupNorm(4, cout), nn.ReLU())


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.encoder = nn.Sequential(
            conv_gn(in_channels, 32), conv_gn(32, 64, stride=2), conv_gn(64, 128, stride=2), conv_gn(128, 128)
        )
        # sub-pixel convolution: 7 x 7 with 16 values each gives 28 x 28
        self.decoder = nn.Sequential(conv_gn(128, 64), nn.Conv2d(64, 16 * 16, 1), nn.PixelShuffle(4), conv_gn(16, 16))
        self.head = nn.Conv2d(16, out_channels, 3, padding=1)

    def forward(self, x):
        return torch.sigmoid(self.head(self.decoder(self.encoder(x))))


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=16):
        super().__init__()
        b = base_channels
        self.left1 = nn.Sequential(conv_gn(in_channels, b), conv_gn(b, b))
        self.left2 = nn.Sequential(conv_gn(b, 2 * b, stride=2), conv_gn(2 * b, 2 * b))
        self.bottom = nn.Sequential(conv_gn(2 * b, 4 * b, stride=2), conv_gn(4 * b, 4 * b))
        self.up2 = nn.ConvTranspose2d(4 * b, 2 * b, kernel_size=4, stride=2, padding=1)
        self.right2 = conv_gn(4 * b, 2 * b)
        self.up1 = nn.ConvTranspose2d(2 * b, b, kernel_size=4, stride=2, padding=1)
        self.right1 = conv_gn(2 * b, b)
        self.head = nn.Conv2d(b, out_channels, kernel_size=1)

    def forward(self, x):
        left1 = self.left1(x)
        left2 = self.left2(left1)
        x = self.bottom(left2)
        x = self.right2(torch.cat((left2, self.up2(x)), dim=1))
        x = self.right1(torch.cat((left1, self.up1(x)), dim=1))
        return torch.sigmoid(self.head(x))


class DiceLoss(nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        pred = pred.contiguous().view(pred.shape[0], -1)
        target = target.contiguous().view(target.shape[0], -1)
        numerator = 2 * torch.sum(pred * target, dim=1) + self.smooth
        denominator = torch.sum(pred, dim=1) + torch.sum(target, dim=1) + self.smooth
        loss = 1 - numerator / denominator
        return loss.mean()


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.bce = nn.BCELoss(reduction="mean")
        self.dice = DiceLoss()

    def forward(self, pred, target):
        return self.bce(pred, target) * self.bce_weight + self.dice(pred, target) * self.dice_weight


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
