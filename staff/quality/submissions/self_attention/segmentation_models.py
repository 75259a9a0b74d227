# self_attention: self-attention over the 7x7 map in the CNN and in the middle of the U-Net; best epoch printed; generator expressions.
import torch
from torch import nn, Tensor


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.project = nn.Linear(in_channels * 28 * 28, out_channels * 28 * 28)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x.flatten(-3)).reshape(len(x), self.out_channels, 28, 28).sigmoid()


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.one = nn.Linear(in_channels * 28 * 28, 512)
        self.two = nn.Linear(512, 512)
        self.three = nn.Linear(512, out_channels * 28 * 28)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.one(x.flatten(-3)))
        h = torch.relu(self.two(h))
        return self.three(h).reshape(len(x), self.out_channels, 28, 28).sigmoid()


def double(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.GroupNorm(4, cout), nn.ReLU(),
        nn.Conv2d(cout, cout, 3, padding=1, bias=False), nn.GroupNorm(4, cout), nn.ReLU(),
    )


class SelfAttention(nn.Module):
    """each place of a map looks at all the others"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.attention = nn.MultiheadAttention(channels, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        mixed, _ = self.attention(tokens, tokens, tokens)
        return x + mixed.transpose(1, 2).reshape(x.shape)


class SimpleCNN(nn.Module):
    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            double(in_channels, 24), nn.MaxPool2d(2), double(24, 48), nn.MaxPool2d(2), double(48, 96), SelfAttention(96),
            nn.ConvTranspose2d(96, 48, 2, stride=2), double(48, 48), nn.ConvTranspose2d(48, 24, 2, stride=2),
            double(24, 24), nn.Conv2d(24, out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).sigmoid()


class TinyUNet(nn.Module):
    def __init__(self, in_channels: int = 3, out_channels: int = 1, base_channels: int = 16) -> None:
        super().__init__()
        c = base_channels
        self.a, self.b, self.c = double(in_channels, c), double(c, 2 * c), double(2 * c, 4 * c)
        self.attention = SelfAttention(4 * c)
        self.up_b, self.up_a = nn.ConvTranspose2d(4 * c, 2 * c, 2, stride=2), nn.ConvTranspose2d(2 * c, c, 2, stride=2)
        self.b2, self.a2 = double(4 * c, 2 * c), double(2 * c, c)
        self.head = nn.Conv2d(c, out_channels, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(self.pool(a))
        c = self.attention(self.c(self.pool(b)))
        b = self.b2(torch.cat([b, self.up_b(c)], dim=1))
        a = self.a2(torch.cat([a, self.up_a(b)], dim=1))
        return self.head(a).sigmoid()


class DiceLoss(nn.Module):
    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        pred, target = pred.flatten(-3), target.flatten(-3)
        dice = (2 * (pred * target).sum(-1) + self.smooth) / (pred.sum(-1) + target.sum(-1) + self.smooth)
        return dice.neg().add(1).mean()


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight: float = 0.5, dice_weight: float = 0.5) -> None:
        super().__init__()
        self.bce_weight, self.dice_weight = bce_weight, dice_weight
        self.bce, self.dice = nn.BCELoss(), DiceLoss()

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
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
