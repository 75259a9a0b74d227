# onecycle: own AdamW and OneCycleLR stepped after each batch through an optional argument of train_epoch; ConvNeXt-like patches and 7x7 depthwise convolutions.
import torch
from torch import nn
import torch.nn.functional as F


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.c = out_channels
        self.head = nn.Linear(in_channels * 28 ** 2, out_channels * 28 ** 2)

    def forward(self, x):
        return self.head(x.flatten(1)).unflatten(1, (self.c, 28, 28)).sigmoid()


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.c = out_channels
        self.fc1 = nn.Linear(in_channels * 28 ** 2, 512)
        self.fc2 = nn.Linear(512, 512)
        self.head = nn.Linear(512, out_channels * 28 ** 2)

    def forward(self, x):
        x = F.gelu(self.fc1(x.flatten(1)))
        x = x + F.gelu(self.fc2(x))
        return self.head(x).unflatten(1, (self.c, 28, 28)).sigmoid()


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.GroupNorm(1, dim)
        self.mlp = nn.Sequential(nn.Conv2d(dim, 2 * dim, 1), nn.GELU(), nn.Conv2d(2 * dim, dim, 1))

    def forward(self, x):
        return x + self.mlp(self.norm(self.dwconv(x)))


class SimpleCNN(nn.Module):
    """patches of 4 x 4 in, the same patches out"""

    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(in_channels, 128, 4, stride=4), Block(128), Block(128), Block(128))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(128, 64, 2, stride=2), nn.GELU(),
            nn.ConvTranspose2d(64, 32, 2, stride=2), nn.GELU(),
            nn.Conv2d(32, out_channels, 3, padding=1),
        )

    def forward(self, x):
        return self.decoder(self.encoder(x)).sigmoid()


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=16):
        super().__init__()
        c1, c2, c3 = base_channels, 2 * base_channels, 4 * base_channels
        self.stem = nn.Conv2d(in_channels, c1, 3, padding=1)
        self.enc1, self.enc2, self.mid = Block(c1), Block(c2), nn.Sequential(Block(c3), Block(c3))
        self.down1, self.down2 = nn.Conv2d(c1, c2, 2, stride=2), nn.Conv2d(c2, c3, 2, stride=2)
        self.up2, self.up1 = nn.ConvTranspose2d(c3, c2, 2, stride=2), nn.ConvTranspose2d(c2, c1, 2, stride=2)
        self.merge2, self.merge1 = nn.Conv2d(2 * c2, c2, 3, padding=1), nn.Conv2d(2 * c1, c1, 3, padding=1)
        self.dec2, self.dec1 = Block(c2), Block(c1)
        self.head = nn.Conv2d(c1, out_channels, 1)

    def forward(self, x):
        s1 = self.enc1(self.stem(x))
        s2 = self.enc2(self.down1(s1))
        x = self.mid(self.down2(s2))
        x = self.dec2(self.merge2(torch.cat([s2, self.up2(x)], 1)))
        x = self.dec1(self.merge1(torch.cat([s1, self.up1(x)], 1)))
        return self.head(x).sigmoid()


class DiceLoss(nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        def total(t):
            return t.flatten(1).sum(1)

        score = (2 * total(pred * target) + self.smooth) / (total(pred) + total(target) + self.smooth)
        return (1 - score).mean()


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.dice_loss = DiceLoss()

    def forward(self, pred, target):
        # binary cross-entropy by hand; clamped so that log(0) cannot happen
        p = pred.clamp(1e-7, 1 - 1e-7)
        bce = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
        return self.bce_weight * bce + self.dice_weight * self.dice_loss(pred, target)


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
