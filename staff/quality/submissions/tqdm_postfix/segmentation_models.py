# tqdm_postfix: tqdm with set_postfix, total=len(loader), loop variables named pbar; SGD-free Adam, global average pool.
import torch
import torch.nn as nn
import torch.nn.functional as F


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.in_features = in_channels * 28 * 28
        self.out_channels = out_channels
        self.fc = nn.Linear(self.in_features, out_channels * 28 * 28)

    def forward(self, x):
        x = self.fc(x.view(-1, self.in_features))
        return torch.sigmoid(x.view(-1, self.out_channels, 28, 28))


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, hidden=512):
        super().__init__()
        self.in_features = in_channels * 28 * 28
        self.out_channels = out_channels
        self.fc1 = nn.Linear(self.in_features, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, out_channels * 28 * 28)

    def forward(self, x):
        x = x.view(-1, self.in_features)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return torch.sigmoid(self.fc3(x).view(-1, self.out_channels, 28, 28))


class ConvBNReLU(nn.Sequential):
    def __init__(self, cin, cout):
        super().__init__(nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True))


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.e1, self.e2, self.e3 = ConvBNReLU(in_channels, 32), ConvBNReLU(32, 64), ConvBNReLU(64, 128)
        self.d1, self.d2 = ConvBNReLU(128, 64), ConvBNReLU(64, 32)
        self.out = nn.Conv2d(32, out_channels, 1)

    def forward(self, x):
        x = F.max_pool2d(self.e1(x), 2)
        x = F.max_pool2d(self.e2(x), 2)
        x = self.e3(x)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = self.d1(x)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = self.d2(x)
        return torch.sigmoid(self.out(x))


class TinyUNet(nn.Module):
    """Concatenates also the input image to the last decoder level"""

    def __init__(self, in_channels=3, out_channels=1, base_channels=16):
        super().__init__()
        b = base_channels
        self.e1 = nn.Sequential(ConvBNReLU(in_channels, b), ConvBNReLU(b, b))
        self.e2 = nn.Sequential(ConvBNReLU(b, 2 * b), ConvBNReLU(2 * b, 2 * b))
        self.e3 = nn.Sequential(ConvBNReLU(2 * b, 4 * b), ConvBNReLU(4 * b, 4 * b))
        self.d2 = nn.Sequential(ConvBNReLU(6 * b, 2 * b), ConvBNReLU(2 * b, 2 * b))
        self.d1 = nn.Sequential(ConvBNReLU(3 * b + in_channels, b), ConvBNReLU(b, b))
        self.out = nn.Conv2d(b, out_channels, 1)

    def forward(self, x):
        e1 = self.e1(x)
        e2 = self.e2(F.max_pool2d(e1, 2))
        e3 = self.e3(F.max_pool2d(e2, 2))
        d2 = F.interpolate(e3, size=e2.shape[-2:], mode="nearest")
        d2 = self.d2(torch.cat([d2, e2], dim=1))
        d1 = F.interpolate(d2, size=e1.shape[-2:], mode="nearest")
        d1 = self.d1(torch.cat([d1, e1, x], dim=1))
        return torch.sigmoid(self.out(d1))


class DiceLoss(nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        inter = (pred * target).sum(dim=(-3, -2, -1))
        union = pred.sum(dim=(-3, -2, -1)) + target.sum(dim=(-3, -2, -1))
        return 1 - ((2 * inter + self.smooth) / (union + self.smooth)).mean()


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.dice = DiceLoss()

    def forward(self, pred, target):
        bce = F.binary_cross_entropy(pred, target.to(pred.dtype))
        return self.bce_weight * bce + self.dice_weight * self.dice(pred, target)


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
