# trainer_class: a Trainer class behind the functions, own cosine schedule by epoch, autocast on the GPU only, parallel (Inception-like) kernels.
import matplotlib.pyplot as plt
import numpy as np
import math

import torch

from segmentation_models import CombinedLoss, calculate_iou


class SegTrainer:
    def __init__(self, model, criterion, device, optimizer=None):
        self.model, self.criterion, self.device, self.optimizer = model, criterion, torch.device(device), optimizer
        self.loss, self.iou, self.count = 0.0, 0.0, 0

    def forward(self, batch):
        images, masks = batch["image"].to(self.device), batch["mask"].to(self.device)
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda", dtype=torch.bfloat16):
            pred = self.model(images)
        loss = self.criterion(pred, masks)
        self.loss += loss.detach().item() * images.shape[0]
        self.iou += calculate_iou(pred.detach().float(), masks) * images.shape[0]
        self.count += images.shape[0]
        return loss

    def train(self, loader, max_steps=None):
        self.model.train()
        for step, batch in enumerate(loader):
            if max_steps is not None and step >= max_steps:
                break
            loss = self.forward(batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        return self.loss / self.count, self.iou / self.count

    @torch.no_grad()
    def evaluate(self, loader):
        self.model.eval()
        for batch in loader:
            self.forward(batch)
        return self.loss / self.count, self.iou / self.count


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    return SegTrainer(model, criterion, device, optimizer).train(train_loader, max_steps)


def validate_segmentation_epoch(model, val_loader, criterion, device):
    return SegTrainer(model, criterion, device).evaluate(val_loader)


def train_segmentation_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    criterion = CombinedLoss()
    optimizer = torch.optim.NAdam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {"train_loss": [], "train_iou": [], "val_loss": [], "val_iou": []}
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        train_loss, train_iou = train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)
        val_loss, val_iou = validate_segmentation_epoch(model, val_loader, criterion, device)
        history["train_loss"].append(train_loss)
        history["train_iou"].append(train_iou)
        history["val_loss"].append(val_loss)
        history["val_iou"].append(val_iou)
    return history


def evaluate_segmentation_model(model, test_loader, dataset_name="Test"):
    device = next(model.parameters()).device
    model.eval()
    ious, with_box = [], 0
    with torch.no_grad():
        for batch in test_loader:
            preds = model(batch["image"].to(device)).cpu()
            for pred, mask in zip(preds, batch["mask"].cpu()):
                ious.append(calculate_iou(pred.unsqueeze(0), mask.unsqueeze(0)))
            with_box += int(batch["has_box"].sum())
    ious = np.array(ious)
    counts, edges = np.histogram(ious, bins=[0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0])
    results = {
        "mean_iou": float(ious.mean()),
        "std_iou": float(ious.std()),
        "samples_with_boxes": with_box,
        "total_samples": len(ious),
        "box_ratio": with_box / len(ious),
        "iou_distribution": {f"{a:.2f}-{b:.2f}": int(c) for a, b, c in zip(edges, edges[1:], counts)},
    }
    print(f"{dataset_name} IoU: {results['mean_iou']:.4f} +- {results['std_iou']:.4f}")
    return results


def visualize_predictions(model, dataset, num_samples=6, save_path=None):
    device = next(model.parameters()).device
    model.eval()
    num_samples = min(num_samples, len(dataset))
    fig, axes = plt.subplots(num_samples, 3, figsize=(8, 2.5 * num_samples), squeeze=False)
    for row in range(num_samples):
        sample = dataset[row]
        with torch.no_grad():
            pred = model(sample["image"].unsqueeze(0).to(device)).squeeze().cpu().numpy()
        axes[row][0].imshow((sample["image"].permute(1, 2, 0).cpu().numpy() * 0.5 + 0.5).clip(0, 1))
        axes[row][1].imshow(sample["mask"].squeeze().cpu().numpy(), cmap="gray")
        axes[row][2].imshow(pred > 0.5, cmap="gray")
        for ax in axes[row]:
            ax.axis("off")
    if save_path:
        fig.savefig(save_path)
    return fig
