# plateau: base signatures only, own AdamW and own ReduceLROnPlateau; squeeze-excitation CNN, attention-gated U-Net.
import torch
import torch.nn as nn


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * 28 * 28, out_channels * 28 * 28),
            nn.Sigmoid(),
            nn.Unflatten(1, (out_channels, 28, 28)),
        )

    def forward(self, x):
        return self.net(x)


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * 28 * 28, 384),
            nn.LayerNorm(384),
            nn.GELU(),
            nn.Linear(384, 384),
            nn.LayerNorm(384),
            nn.GELU(),
            nn.Linear(384, out_channels * 28 * 28),
            nn.Sigmoid(),
            nn.Unflatten(1, (out_channels, 28, 28)),
        )

    def forward(self, x):
        return self.net(x)


def conv_block(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.SiLU())


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.net = nn.Sequential(
            conv_block(in_channels, 32),
            nn.MaxPool2d(2),
            conv_block(32, 64),
            nn.MaxPool2d(2),
            conv_block(64, 128),
            conv_block(128, 128),
            nn.ConvTranspose2d(128, 64, 2, 2),
            conv_block(64, 64),
            nn.ConvTranspose2d(64, 32, 2, 2),
            conv_block(32, 32),
            nn.Conv2d(32, out_channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.net(x)


class AttentionGate(nn.Module):
    """Attention U-Net (Oktay et al. 2018): the decoder says where the skip matters"""

    def __init__(self, g_channels, x_channels, mid_channels):
        super().__init__()
        self.wg = nn.Conv2d(g_channels, mid_channels, 1)
        self.wx = nn.Conv2d(x_channels, mid_channels, 1)
        self.psi = nn.Sequential(nn.ReLU(), nn.Conv2d(mid_channels, 1, 1), nn.Sigmoid())

    def forward(self, g, x):
        return x * self.psi(self.wg(g) + self.wx(x))


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=16):
        super().__init__()
        n1, n2, n3 = base_channels, base_channels * 2, base_channels * 4
        self.enc1 = nn.Sequential(conv_block(in_channels, n1), conv_block(n1, n1))
        self.enc2 = nn.Sequential(conv_block(n1, n2), conv_block(n2, n2))
        self.enc3 = nn.Sequential(conv_block(n2, n3), conv_block(n3, n3))
        self.down = nn.MaxPool2d(2)
        self.up2 = nn.ConvTranspose2d(n3, n2, 2, 2)
        self.att2 = AttentionGate(n2, n2, n1)
        self.dec2 = nn.Sequential(conv_block(n2 * 2, n2), conv_block(n2, n2))
        self.up1 = nn.ConvTranspose2d(n2, n1, 2, 2)
        self.att1 = AttentionGate(n1, n1, n1 // 2)
        self.dec1 = nn.Sequential(conv_block(n1 * 2, n1), conv_block(n1, n1))
        self.final = nn.Conv2d(n1, out_channels, 1)

    def forward(self, x):
        x1 = self.enc1(x)
        x2 = self.enc2(self.down(x1))
        x3 = self.enc3(self.down(x2))
        g2 = self.up2(x3)
        y = self.dec2(torch.cat([self.att2(g2, x2), g2], dim=1))
        g1 = self.up1(y)
        y = self.dec1(torch.cat([self.att1(g1, x1), g1], dim=1))
        return torch.sigmoid(self.final(y))


class DiceLoss(nn.Module):
    def __init__(self, smooth=1e-5):
        super().__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        axes = list(range(1, pred.dim()))
        overlap = torch.sum(pred * target, dim=axes)
        sizes = torch.sum(pred, dim=axes) + torch.sum(target, dim=axes)
        return torch.mean(1 - (2 * overlap + self.smooth) / (sizes + self.smooth))


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.weights = (bce_weight, dice_weight)
        self.bce, self.dice = nn.BCELoss(), DiceLoss()

    def forward(self, pred, target):
        w_bce, w_dice = self.weights
        return w_bce * self.bce(pred, target) + w_dice * self.dice(pred, target)


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
