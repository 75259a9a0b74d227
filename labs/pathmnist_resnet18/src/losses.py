"""The training losses other than cross-entropy: focal loss, and MixUp as a hook and a loss that belong together."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class FocalLoss(nn.Module):
    """Mean of w_y (1 - p_y)^gamma (-log p_y): images that are right already count little (Lin et al. 2017).

    gamma 0 without weights is cross-entropy. weight: (K,) for the classes or None; unlike cross-entropy's, the mean is
    over images and not over their weights, as in the paper.
    """

    def __init__(self, gamma: float = 2.0, weight: torch.Tensor | None = None) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weight", weight)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits (B, K), labels int64 (B,) → mean loss in nats."""
        log_p = F.log_softmax(logits.float(), dim=1).gather(1, labels[:, None]).squeeze(1)  # (B,)
        loss = -((1 - log_p.exp()) ** self.gamma) * log_p
        return (loss if self.weight is None else loss * self.weight[labels]).mean()


class MixUp:
    """Training images become sums of two, and the loss the same sum of two losses (Zhang et al. 2018).

    The training loop knows batches of images and labels and nothing else, so mixing is a forward hook of the model
    (`attach`), and `criterion` has the other half. The share is drawn for each batch from Beta(alpha, alpha), as in
    the paper, and the larger part keeps the place: the loop's training accuracy counts the label of that part.
    Random numbers are torch's global ones on the CPU, as dropout's are; a resumed run restores them.
    """

    def __init__(self, alpha: float) -> None:
        self._share = torch.distributions.Beta(alpha, alpha)
        self.partners: torch.Tensor | None = None  # (B,) of the newest training batch
        self.share = 1.0

    def attach(self, model: nn.Module) -> None:
        """Mix what `model` gets from now on, in training mode only."""
        model.register_forward_pre_hook(self._mix)

    def _mix(self, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
        if not model.training:
            return None
        (images,) = inputs
        drawn = self._share.sample().item()
        self.share = max(drawn, 1 - drawn)
        self.partners = torch.randperm(len(images)).to(images.device)
        return (images * self.share + images[self.partners] * (1 - self.share),)

    def criterion(self, loss: nn.Module) -> nn.Module:
        """`loss` of each image's own label and of its partner's, weighted as the images are."""
        return _MixedLoss(self, loss)


class _MixedLoss(nn.Module):
    def __init__(self, mixing: MixUp, loss: nn.Module) -> None:
        super().__init__()
        self.mixing, self.loss = mixing, loss

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits (B, K), labels int64 (B,) → scalar, nats. Logits without gradient are of evaluation, thus not mixed.

        Evaluation cannot be told from the hook: it may run a copy of the network (averaged weights) with its own hook.
        """
        if not logits.requires_grad or self.mixing.partners is None:
            return self.loss(logits, labels)
        own, others = self.loss(logits, labels), self.loss(logits, labels[self.mixing.partners])
        return self.mixing.share * own + (1 - self.mixing.share) * others
