# trainer_class: a Trainer class behind the functions, own cosine schedule by epoch, autocast on the GPU only, parallel (Inception-like) kernels.
import torch
import torch.nn as nn


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(in_channels * 784, out_channels * 784)
        self.to_image = nn.Unflatten(1, (out_channels, 28, 28))

    def forward(self, images):
        return torch.sigmoid(self.to_image(self.fc(self.flatten(images))))


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(in_channels * 784, 512), nn.PReLU(), nn.Linear(512, 512), nn.PReLU(),
            nn.Linear(512, out_channels * 784), nn.Unflatten(1, (out_channels, 28, 28)),
        )

    def forward(self, images):
        return torch.sigmoid(self.body(images))


class Inception(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.three = nn.Conv2d(cin, cout // 2, 3, padding=1)
        self.five = nn.Conv2d(cin, cout // 2, 5, padding=2)
        self.bn = nn.BatchNorm2d(cout)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.bn(torch.cat([self.three(x), self.five(x)], dim=1)))


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.encoder = nn.Sequential(Inception(in_channels, 32), nn.MaxPool2d(2), Inception(32, 64), nn.MaxPool2d(2), Inception(64, 96))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(96, 64, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(64, 32, 2, stride=2), nn.ReLU(),
            nn.Conv2d(32, out_channels, 3, padding=1),
        )

    def forward(self, images):
        return torch.sigmoid(self.decoder(self.encoder(images)))


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=16):
        super().__init__()
        c = base_channels
        self.enc1, self.enc2, self.bottom = Inception(in_channels, c), Inception(c, 2 * c), Inception(2 * c, 4 * c)
        self.pool = nn.MaxPool2d(2)
        self.up2 = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4 * c, 2 * c, 1))
        self.up1 = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2 * c, c, 1))
        self.dec2, self.dec1 = Inception(4 * c, 2 * c), Inception(2 * c, c)
        self.head = nn.Conv2d(c, out_channels, 3, padding=1)

    def forward(self, images):
        one = self.enc1(images)
        two = self.enc2(self.pool(one))
        x = self.bottom(self.pool(two))
        x = self.dec2(torch.cat([self.up2(x), two], dim=1))
        x = self.dec1(torch.cat([self.up1(x), one], dim=1))
        return torch.sigmoid(self.head(x))


class DiceLoss(nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        tp = (pred * target).flatten(1).sum(1)
        fp = (pred * (1 - target)).flatten(1).sum(1)
        fn = ((1 - pred) * target).flatten(1).sum(1)
        dice = (2 * tp + self.smooth) / (2 * tp + fp + fn + self.smooth)
        return 1 - dice.mean()


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.bce = nn.BCELoss()
        self.dice = DiceLoss()

    def forward(self, pred, target):
        pred, target = pred.float(), target.float()
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
