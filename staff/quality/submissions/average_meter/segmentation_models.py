# average_meter: AverageMeter of the ImageNet example; SGD with momentum at 30 times the learning rate; dense (DenseNet-like) CNN; own LeakyReLU U-Net.
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super(LinearSegmentation, self).__init__()
        self.out_channels = out_channels
        self.fc = nn.Linear(in_channels * 28 * 28, out_channels * 28 * 28)

    def forward(self, x):
        x = torch.flatten(x, start_dim=1)
        return F.sigmoid(self.fc(x)).view(-1, self.out_channels, 28, 28)


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super(MLPSegmentation, self).__init__()
        self.out_channels = out_channels
        self.fc1 = nn.Linear(in_channels * 28 * 28, 1024)
        self.fc2 = nn.Linear(1024, out_channels * 28 * 28)

    def forward(self, x):
        x = torch.flatten(x, start_dim=1)
        x = F.relu(self.fc1(x))
        return F.sigmoid(self.fc2(x)).view(-1, self.out_channels, 28, 28)


def conv(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.LeakyReLU(0.1, inplace=True))


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super(SimpleCNN, self).__init__()
        self.down = nn.Sequential(conv(in_channels, 32), nn.MaxPool2d(2), conv(32, 64), nn.MaxPool2d(2))
        # dilated convolutions see the whole box
        self.context = nn.Sequential(
            nn.Conv2d(64, 96, 3, padding=2, dilation=2), nn.BatchNorm2d(96), nn.LeakyReLU(0.1), conv(96, 96)
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(96, 48, 2, 2), nn.LeakyReLU(0.1), nn.ConvTranspose2d(48, 24, 2, 2), nn.LeakyReLU(0.1),
            nn.Conv2d(24, out_channels, 3, padding=1),
        )

    def forward(self, x):
        return torch.sigmoid(self.up(self.context(self.down(x))))


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=16):
        super(TinyUNet, self).__init__()
        n = base_channels
        self.enc1 = nn.Sequential(conv(in_channels, n), conv(n, n))
        self.enc2 = nn.Sequential(conv(n, 2 * n), conv(2 * n, 2 * n))
        self.bottleneck = nn.Sequential(conv(2 * n, 4 * n), conv(4 * n, 4 * n))
        self.up2, self.up1 = nn.ConvTranspose2d(4 * n, 2 * n, 2, 2), nn.ConvTranspose2d(2 * n, n, 2, 2)
        self.dec2 = nn.Sequential(conv(4 * n, 2 * n), conv(2 * n, 2 * n))
        self.dec1 = nn.Sequential(conv(2 * n, n), conv(n, n))
        self.out = nn.Conv2d(n, out_channels, 1)

    def forward(self, x):
        enc1 = self.enc1(x)
        enc2 = self.enc2(F.max_pool2d(enc1, 2, 2))
        bottleneck = self.bottleneck(F.max_pool2d(enc2, 2, 2))
        dec2 = self.dec2(torch.cat([enc2, self.up2(bottleneck)], dim=1))
        dec1 = self.dec1(torch.cat([enc1, self.up1(dec2)], dim=1))
        return torch.sigmoid(self.out(dec1))


class DiceLoss(nn.Module):
    def __init__(self, smooth=1.0):
        super(DiceLoss, self).__init__()
        self.smooth = smooth

    def dice_coefficient(self, pred, target):
        intersection = torch.sum(pred * target)
        return (2.0 * intersection + self.smooth) / (torch.sum(pred) + torch.sum(target) + self.smooth)

    def forward(self, pred, target):
        scores = [self.dice_coefficient(p, t) for p, t in zip(pred, target)]
        return 1.0 - torch.stack(scores).mean()


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super(CombinedLoss, self).__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.dice_loss = DiceLoss()

    def forward(self, pred, target):
        total = 0.0
        if self.bce_weight > 0:
            total = total + self.bce_weight * F.binary_cross_entropy(pred, target)
        if self.dice_weight > 0:
            total = total + self.dice_weight * self.dice_loss(pred, target)
        return total


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
