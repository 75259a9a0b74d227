# own_flips: a random flip of the batch inside train_epoch, image and mask alike; plain VGG pairs, U-Net with additive skips.
import torch
import torch.nn as nn


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.out_channels = out_channels
        self.linear = nn.Linear(in_channels * 28 * 28, out_channels * 28 * 28)

    def forward(self, x):
        B, C, H, W = x.shape
        y = self.linear(x.reshape(B, C * H * W))
        return torch.sigmoid(y.reshape(B, self.out_channels, H, W))


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.out_channels = out_channels
        self.hidden1 = nn.Linear(in_channels * 28 * 28, 512)
        self.hidden2 = nn.Linear(512, 512)
        self.output = nn.Linear(512, out_channels * 28 * 28)

    def forward(self, x):
        B, C, H, W = x.shape
        y = torch.relu(self.hidden1(x.reshape(B, C * H * W)))
        y = torch.relu(self.hidden2(y))
        return torch.sigmoid(self.output(y).reshape(B, self.out_channels, H, W))


def block(cin, cout):
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(),
        nn.Conv2d(cout, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(),
    )


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.encoder = nn.Sequential(block(in_channels, 24), nn.AvgPool2d(2), block(24, 48), nn.AvgPool2d(2), block(48, 96))
        self.decoder = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"), block(96, 48),
            nn.Upsample(scale_factor=2, mode="bilinear"), block(48, 24),
            nn.Conv2d(24, out_channels, 1),
        )

    def forward(self, x):
        return torch.sigmoid(self.decoder(self.encoder(x)))


class TinyUNet(nn.Module):
    """U-Net whose skips are added, as in LinkNet"""

    def __init__(self, in_channels=3, out_channels=1, base_channels=16):
        super().__init__()
        c = base_channels
        self.enc1, self.enc2, self.mid = block(in_channels, c), block(c, 2 * c), block(2 * c, 4 * c)
        self.pool = nn.MaxPool2d(2)
        self.up2, self.up1 = nn.ConvTranspose2d(4 * c, 2 * c, 2, stride=2), nn.ConvTranspose2d(2 * c, c, 2, stride=2)
        self.dec2, self.dec1 = block(2 * c, 2 * c), block(c, c)
        self.out = nn.Conv2d(c, out_channels, 1)

    def forward(self, x):
        x1 = self.enc1(x)
        x2 = self.enc2(self.pool(x1))
        x3 = self.mid(self.pool(x2))
        y = self.dec2(self.up2(x3) + x2)
        y = self.dec1(self.up1(y) + x1)
        return torch.sigmoid(self.out(y))


class DiceLoss(nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        B = pred.shape[0]
        loss = 0
        for p, t in zip(pred, target):
            inter = (p * t).sum()
            loss = loss + 1 - (2 * inter + self.smooth) / (p.sum() + t.sum() + self.smooth)
        return loss / B


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.bce_loss = nn.BCELoss()
        self.dice_loss = DiceLoss()

    def forward(self, pred, target):
        return self.bce_weight * self.bce_loss(pred, target) + self.dice_weight * self.dice_loss(pred, target)


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
