# tensor_results: losses, accuracies and IoUs returned as 0-dim tensors; the commonest CNN: three conv-BatchNorm-ReLU blocks, Flatten, Dropout 0.3, two dense layers.
import torch
import torch.nn as nn
import torch.nn.functional as F


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.shape = (out_channels, 28, 28)
        self.fc = nn.Linear(in_channels * 28 * 28, out_channels * 28 * 28)

    def forward(self, x):
        return torch.sigmoid(self.fc(x.flatten(1)).reshape(-1, *self.shape))


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.shape = (out_channels, 28, 28)
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * 28 * 28, 512), nn.BatchNorm1d(512), nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(),
            nn.Linear(512, out_channels * 28 * 28),
        )

    def forward(self, x):
        return torch.sigmoid(self.net(x).reshape(-1, *self.shape))


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        # encoder
        self.conv1 = nn.Conv2d(in_channels, 32, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(128)
        self.pool = nn.MaxPool2d(2, 2)
        # decoder
        self.deconv1 = nn.ConvTranspose2d(128, 64, 3, stride=2, padding=1, output_padding=1)
        self.bn4 = nn.BatchNorm2d(64)
        self.deconv2 = nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1)
        self.bn5 = nn.BatchNorm2d(32)
        self.final = nn.Conv2d(32, out_channels, 1)

    def forward(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = self.pool(F.relu(self.bn2(self.conv2(x))))
        x = F.relu(self.bn3(self.conv3(x)))
        x = F.relu(self.bn4(self.deconv1(x)))
        x = F.relu(self.bn5(self.deconv2(x)))
        return torch.sigmoid(self.final(x))


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=16):
        super().__init__()
        c = base_channels
        self.inc = self.block(in_channels, c)
        self.down1 = nn.Sequential(nn.MaxPool2d(2), self.block(c, c * 2))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), self.block(c * 2, c * 4))
        self.up1 = nn.ConvTranspose2d(c * 4, c * 2, 2, stride=2)
        self.conv1 = self.block(c * 4, c * 2)
        self.up2 = nn.ConvTranspose2d(c * 2, c, 2, stride=2)
        self.conv2 = self.block(c * 2, c)
        self.outc = nn.Conv2d(c, out_channels, 1)

    @staticmethod
    def block(cin, cout):
        return nn.Sequential(
            nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True),
            nn.Conv2d(cout, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True),
        )

    def forward(self, x):
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x = self.conv1(torch.cat([x2, self.up1(x3)], dim=1))
        x = self.conv2(torch.cat([x1, self.up2(x)], dim=1))
        return torch.sigmoid(self.outc(x))


class DiceLoss(nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        dims = (1, 2, 3)
        inter = (pred * target).sum(dims)
        dice = (2 * inter + self.smooth) / (pred.sum(dims) + target.sum(dims) + self.smooth)
        return torch.mean(1 - dice)


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.dice = DiceLoss()

    def forward(self, pred, target):
        loss = self.bce_weight * F.binary_cross_entropy(pred, target)
        loss = loss + self.dice_weight * self.dice(pred, target)
        return loss


def get_segmentation_model(model_name, in_channels=3, out_channels=1):
    models = {"linear": LinearSegmentation, "mlp": MLPSegmentation, "cnn": SimpleCNN, "unet": TinyUNet}
    if model_name not in models:
        raise ValueError(f"unknown model {model_name!r}, choose from {sorted(models)}")
    if model_name == "unet":
        return TinyUNet(in_channels, out_channels, base_channels=32)
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
