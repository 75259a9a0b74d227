# module_lists: nn.ModuleList loops everywhere; a U-Net of three levels (28, 14, 7, 3); average kept in a running-mean style.
import torch
from torch import nn
from torch.nn import functional as F


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.out_channels = out_channels
        # one linear layer for each output channel
        self.layers = nn.ModuleList(nn.Linear(in_channels * 784, 784) for _ in range(out_channels))

    def forward(self, x):
        x = x.flatten(1)
        maps = [layer(x).reshape(-1, 28, 28) for layer in self.layers]
        return torch.sigmoid(torch.stack(maps, dim=1))


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, hidden=(512, 512)):
        super().__init__()
        self.out_channels = out_channels
        sizes = [in_channels * 784, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.output = nn.Linear(sizes[-1], out_channels * 784)

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return torch.sigmoid(self.output(x).reshape(-1, self.out_channels, 28, 28))


def conv(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU())


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, channels=(32, 64, 128)):
        super().__init__()
        down = [in_channels, *channels]
        up = [*reversed(channels)]
        self.down = nn.ModuleList(conv(a, b) for a, b in zip(down, down[1:]))
        self.up = nn.ModuleList(conv(a, b) for a, b in zip(up, up[1:]))
        self.last = nn.Conv2d(channels[0], out_channels, 3, padding=1)

    def forward(self, x):
        for i, layer in enumerate(self.down):
            if i > 0:
                x = F.max_pool2d(x, 2)
            x = layer(x)
        for layer in self.up:
            x = layer(F.interpolate(x, scale_factor=2))
        return torch.sigmoid(self.last(x))


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=16, levels=3):
        super().__init__()
        widths = [base_channels * 2**i for i in range(levels + 1)]
        self.encoders = nn.ModuleList()
        previous = in_channels
        for width in widths:
            self.encoders.append(nn.Sequential(conv(previous, width), conv(width, width)))
            previous = width
        self.reducers = nn.ModuleList()
        self.decoders = nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.reducers.append(nn.Conv2d(previous, width, 1))
            self.decoders.append(conv(2 * width, width))
            previous = width
        self.head = nn.Conv2d(previous, out_channels, 1)

    def forward(self, x):
        skips = []
        for encoder in self.encoders[:-1]:
            x = encoder(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.encoders[-1](x)  # (B, 8 * base_channels, 3, 3)
        for reducer, decoder, skip in zip(self.reducers, self.decoders, reversed(skips)):
            x = F.interpolate(reducer(x), size=skip.shape[2:], mode="bilinear", align_corners=False)
            x = decoder(torch.cat([skip, x], dim=1))
        return torch.sigmoid(self.head(x))


class DiceLoss(nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        pred, target = pred.flatten(1), target.flatten(1)
        both = (pred * target).sum(1)
        return (1 - (2 * both + self.smooth) / ((pred + target).sum(1) + self.smooth)).mean()


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.parts = [(bce_weight, nn.BCELoss()), (dice_weight, DiceLoss())]

    def forward(self, pred, target):
        loss = 0
        for weight, part in self.parts:
            loss += weight * part(pred, target)
        return loss


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
