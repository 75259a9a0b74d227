# lazy_linear: nn.LazyLinear and nn.LazyConv2d, made real by one dry run in the constructor.
import torch
from torch import nn


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(out_channels * 28 * 28), nn.Unflatten(1, (out_channels, 28, 28)))
        self.net(torch.zeros(1, in_channels, 28, 28))

    def forward(self, x):
        return torch.sigmoid(self.net(x))


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.LazyLinear(512), nn.ReLU(), nn.LazyLinear(512), nn.ReLU(),
            nn.LazyLinear(out_channels * 28 * 28), nn.Unflatten(1, (out_channels, 28, 28)),
        )
        self.net(torch.zeros(1, in_channels, 28, 28))

    def forward(self, x):
        return torch.sigmoid(self.net(x))


def block(num_channels):
    return nn.Sequential(nn.LazyConv2d(num_channels, kernel_size=3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU())


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.net = nn.Sequential(
            block(32), nn.MaxPool2d(2), block(64), nn.MaxPool2d(2), block(128),
            nn.LazyConvTranspose2d(64, 2, 2), block(64), nn.LazyConvTranspose2d(32, 2, 2), block(32),
            nn.LazyConv2d(out_channels, 1),
        )
        self.eval()
        self.net(torch.zeros(1, in_channels, 28, 28))
        self.train()

    def forward(self, x):
        return torch.sigmoid(self.net(x))


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=16):
        super().__init__()
        c = base_channels
        self.b1, self.b2, self.b3 = (nn.Sequential(block(c * k), block(c * k)) for k in (1, 2, 4))
        self.up2, self.up1 = nn.LazyConvTranspose2d(c * 2, 2, 2), nn.LazyConvTranspose2d(c, 2, 2)
        self.b4, self.b5 = block(c * 2), block(c)
        self.pool = nn.MaxPool2d(2)
        self.last = nn.LazyConv2d(out_channels, 1)
        self.eval()
        self(torch.zeros(1, in_channels, 28, 28))
        self.train()

    def forward(self, x):
        x1 = self.b1(x)
        x2 = self.b2(self.pool(x1))
        x3 = self.b3(self.pool(x2))
        y = self.b4(torch.cat([self.up2(x3), x2], dim=1))
        y = self.b5(torch.cat([self.up1(y), x1], dim=1))
        return torch.sigmoid(self.last(y))


class DiceLoss(nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        y_hat, y = pred.reshape(pred.shape[0], -1), target.reshape(target.shape[0], -1)
        inter = (y_hat * y).sum(axis=1)
        return (1 - (2 * inter + self.smooth) / (y_hat.sum(axis=1) + y.sum(axis=1) + self.smooth)).mean()


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.bce_weight, self.dice_weight = bce_weight, dice_weight
        self.bce = nn.BCELoss()
        self.dice = DiceLoss()

    def forward(self, pred, target):
        return self.bce_weight * self.bce(pred, target) + self.dice_weight * self.dice(pred, target)


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
