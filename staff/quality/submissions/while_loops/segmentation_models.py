# while_loops: explicit iterators and while loops, zero_grad after the step, linear layers by hand or as a full-size convolution.
import torch
import torch.nn as nn
import torch.nn.functional as F


class LinearSegmentation(nn.Module):
    """Every pixel of the mask from all pixels of the image, written out."""

    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.shape = (out_channels, 28, 28)
        self.weight = nn.Parameter(0.02 * torch.randn(in_channels * 784, out_channels * 784))
        self.bias = nn.Parameter(torch.zeros(out_channels * 784))

    def forward(self, x):
        z = torch.addmm(self.bias, x.flatten(start_dim=1), self.weight)
        return torch.sigmoid(z).view(x.size(0), *self.shape)


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * 28 * 28, 768),
            nn.ReLU(),
            nn.Linear(768, 768),
            nn.ReLU(),
            nn.Linear(768, out_channels * 28 * 28),
        )
        self.out_channels = out_channels

    def forward(self, x):
        return self.net(x).sigmoid().reshape(x.shape[0], self.out_channels, 28, 28)


def block(c_in, c_out, stride=1):
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    )


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.encoder = nn.Sequential(
            block(in_channels, 32),
            nn.Sequential(block(32, 64), nn.AvgPool2d(2)),
            nn.Sequential(block(64, 128), nn.AvgPool2d(2)),
        )
        self.decoder = nn.Sequential(
            nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(128, 64, 3, padding=1)),
            block(64, 64),
            nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(64, 32, 3, padding=1)),
            block(32, 32),
            nn.Conv2d(32, out_channels, 1),
        )

    def forward(self, x):
        return torch.sigmoid(self.decoder(self.encoder(x)))


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=16):
        super().__init__()
        c = base_channels
        self.enc1 = nn.Sequential(block(in_channels, c), block(c, c))
        self.down1 = nn.Sequential(block(c, 2 * c), nn.AvgPool2d(2))
        self.enc2 = nn.Sequential(block(2 * c, 2 * c), block(2 * c, 2 * c))
        self.down2 = nn.Sequential(block(2 * c, 4 * c), nn.AvgPool2d(2))
        self.middle = nn.Sequential(block(4 * c, 4 * c), block(4 * c, 4 * c))
        self.up2 = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(4 * c, 2 * c, 3, padding=1))
        self.dec2 = nn.Sequential(block(4 * c, 2 * c), block(2 * c, 2 * c))
        self.up1 = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(2 * c, c, 3, padding=1))
        self.dec1 = nn.Sequential(block(2 * c, c), block(c, c))
        self.head = nn.Conv2d(c, out_channels, 1)

    def forward(self, x):
        skip1 = self.enc1(x)
        skip2 = self.enc2(self.down1(skip1))
        y = self.middle(self.down2(skip2))
        y = self.dec2(torch.cat([self.up2(y), skip2], dim=1))
        y = self.dec1(torch.cat([skip1, self.up1(y)], dim=1))
        return self.head(y).sigmoid()


def get_segmentation_model(model_name, in_channels=3, out_channels=1):
    registry = {"linear": LinearSegmentation, "mlp": MLPSegmentation, "cnn": SimpleCNN, "unet": TinyUNet}
    if model_name not in registry:
        raise ValueError(f"unknown model {model_name!r}")
    return registry[model_name](in_channels=in_channels, out_channels=out_channels)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def calculate_iou(pred_mask, true_mask, threshold=0.5):
    pred_mask = torch.as_tensor(pred_mask)
    true_mask = torch.as_tensor(true_mask).to(pred_mask.device)
    a = (pred_mask > threshold).flatten(1)
    b = (true_mask > threshold).flatten(1)
    both = (a & b).sum(1).double()
    either = (a | b).sum(1).double()
    iou = torch.where(either == 0, torch.ones_like(both), both / either.clamp(min=1))
    return float(iou.mean())


class DiceLoss(nn.Module):
    """Dice of all pixels of the batch together."""

    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        pred, target = pred.reshape(-1), target.reshape(-1)
        intersection = torch.dot(pred, target)
        return 1 - (2 * intersection + self.smooth) / (pred.sum() + target.sum() + self.smooth)


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.terms = nn.ModuleList([nn.BCELoss(), DiceLoss()])
        self.register_buffer("weights", torch.tensor([float(bce_weight), float(dice_weight)]))

    def forward(self, pred, target):
        losses = torch.stack([term(pred, target) for term in self.terms])
        return (self.weights.to(losses.device) * losses).sum()
