# squeezed_labels: after the MedMNIST notebook: labels.squeeze().long(), as their loaders give (B, 1); Net with layer1 to layer5.
import torch
import torch.nn as nn


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super(LinearSegmentation, self).__init__()
        self.out_channels = out_channels
        self.fc = nn.Linear(in_channels * 28 * 28, out_channels * 28 * 28)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x):
        x = x.view(x.size(0), -1)
        x = self.sigmoid(self.fc(x))
        return x.view(x.size(0), self.out_channels, 28, 28)


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super(MLPSegmentation, self).__init__()
        self.out_channels = out_channels
        self.fc = nn.Sequential(
            nn.Linear(in_channels * 28 * 28, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, out_channels * 28 * 28),
            nn.Sigmoid())

    def forward(self, x):
        x = self.fc(x.view(x.size(0), -1))
        return x.view(x.size(0), self.out_channels, 28, 28)


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super(SimpleCNN, self).__init__()
        self.layer1 = nn.Sequential(
            nn.Conv2d(in_channels, 32, kernel_size=3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2, stride=2))
        self.layer2 = nn.Sequential(
            nn.Conv2d(32, 64, kernel_size=3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2, stride=2))
        self.layer3 = nn.Sequential(
            nn.Conv2d(64, 128, kernel_size=3, padding=1),
            nn.BatchNorm2d(128),
            nn.ReLU())
        self.layer4 = nn.Sequential(
            nn.ConvTranspose2d(128, 64, kernel_size=2, stride=2),
            nn.BatchNorm2d(64),
            nn.ReLU())
        self.layer5 = nn.Sequential(
            nn.ConvTranspose2d(64, 32, kernel_size=2, stride=2),
            nn.BatchNorm2d(32),
            nn.ReLU())
        self.out = nn.Sequential(
            nn.Conv2d(32, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, out_channels, kernel_size=1),
            nn.Sigmoid())

    def forward(self, x):
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        x = self.layer5(x)
        return self.out(x)


class UNetBlock(nn.Module):
    def __init__(self, in_ch, out_ch):
        super(UNetBlock, self).__init__()
        self.conv1 = nn.Conv2d(in_ch, out_ch, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(out_ch)
        self.conv2 = nn.Conv2d(out_ch, out_ch, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_ch)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=24):
        super(TinyUNet, self).__init__()
        n = base_channels
        self.enc1 = UNetBlock(in_channels, n)
        self.enc2 = UNetBlock(n, n * 2)
        self.center = UNetBlock(n * 2, n * 4)
        self.up2 = nn.ConvTranspose2d(n * 4, n * 2, 2, 2)
        self.dec2 = UNetBlock(n * 4, n * 2)
        self.up1 = nn.ConvTranspose2d(n * 2, n, 2, 2)
        self.dec1 = UNetBlock(n * 2, n)
        self.last = nn.Conv2d(n, out_channels, 1)
        self.maxpool = nn.MaxPool2d(2)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, nonlinearity='relu')

    def forward(self, x):
        e1 = self.enc1(x)
        e2 = self.enc2(self.maxpool(e1))
        c = self.center(self.maxpool(e2))
        d2 = self.dec2(torch.cat((self.up2(c), e2), 1))
        d1 = self.dec1(torch.cat((self.up1(d2), e1), 1))
        return torch.sigmoid(self.last(d1))


class DiceLoss(nn.Module):
    def __init__(self, smooth=1.):
        super(DiceLoss, self).__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        intersection = (pred * target).sum(dim=2).sum(dim=2).squeeze(1)
        loss = (1 - ((2. * intersection + self.smooth) / (
            pred.sum(dim=2).sum(dim=2).squeeze(1) + target.sum(dim=2).sum(dim=2).squeeze(1) + self.smooth)))
        return loss.mean()


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super(CombinedLoss, self).__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight

    def forward(self, pred, target):
        bce = nn.functional.binary_cross_entropy(pred, target)
        dice = DiceLoss()(pred, target)
        return bce * self.bce_weight + dice * self.dice_weight


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
