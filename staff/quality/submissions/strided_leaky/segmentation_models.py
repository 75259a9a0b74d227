# strided_leaky: strided convolutions, LeakyReLU, bilinear upsampling, one function for both kinds of epoch, NAdam.
import torch
import torch.nn as nn
import torch.nn.functional as F


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * 784, out_channels * 784),
            nn.Unflatten(1, (out_channels, 28, 28)),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.net(x)


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * 28 * 28, 512),
            nn.LeakyReLU(0.1),
            nn.Linear(512, 512),
            nn.LeakyReLU(0.1),
            nn.Linear(512, out_channels * 28 * 28),
        )
        self.out_channels = out_channels

    def forward(self, x):
        return self.net(x).sigmoid().reshape(x.shape[0], self.out_channels, 28, 28)


def block(c_in, c_out, stride=1):
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1),
        nn.BatchNorm2d(c_out),
        nn.LeakyReLU(0.1),
    )


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.encoder = nn.Sequential(
            block(in_channels, 32),
            block(32, 64, stride=2),
            block(64, 128, stride=2),
        )
        self.decoder = nn.Sequential(
            nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), block(128, 64)),
            block(64, 64),
            nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), block(64, 32)),
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
        self.down1 = block(c, 2 * c, stride=2)
        self.enc2 = nn.Sequential(block(2 * c, 2 * c), block(2 * c, 2 * c))
        self.down2 = block(2 * c, 4 * c, stride=2)
        self.middle = nn.Sequential(block(4 * c, 4 * c), block(4 * c, 4 * c))
        self.up2 = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), block(4 * c, 2 * c))
        self.dec2 = nn.Sequential(block(4 * c, 2 * c), block(2 * c, 2 * c))
        self.up1 = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), block(2 * c, c))
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
    def __init__(self, smooth=1e-3):
        super().__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        p = pred.reshape(len(pred), -1)
        t = target.reshape(len(target), -1).float()
        inter = torch.einsum("bi,bi->b", p, t)
        cardinality = p.sum(-1) + t.sum(-1)
        return 1.0 - torch.mean((2.0 * inter + self.smooth) / (cardinality + self.smooth))


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.dice = DiceLoss()

    def forward(self, pred, target):
        p = pred.clamp(1e-7, 1 - 1e-7)
        bce = -(target * torch.log(p) + (1 - target) * torch.log(1 - p)).mean()
        return self.bce_weight * bce + self.dice_weight * self.dice(pred, target)
