# while_loops: explicit iterators and while loops, zero_grad after the step, linear layers by hand or as a full-size convolution.
import matplotlib.pyplot as plt
import torch

from segmentation_models import CombinedLoss, calculate_iou


def train_segmentation_model(
    model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0, max_steps_per_epoch=100
):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = model.to(device)
    loss_fn = CombinedLoss()
    opt = torch.optim.Adam(net.parameters(), lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.98), eps=1e-7)
    train_losses, train_scores, val_losses, val_scores = [], [], [], []
    epoch = 0
    while epoch < epochs:
        a, b = train_segmentation_epoch(net, train_loader, opt, loss_fn, device, max_steps=max_steps_per_epoch)
        c, d = validate_segmentation_epoch(net, val_loader, loss_fn, device)
        train_losses.append(a)
        train_scores.append(b)
        val_losses.append(c)
        val_scores.append(d)
        epoch += 1
    return dict(train_loss=train_losses, train_iou=train_scores, val_loss=val_losses, val_iou=val_scores)


def train_segmentation_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    optimizer.zero_grad()
    batches = iter(train_loader)
    limit = len(train_loader) if max_steps is None else min(max_steps, len(train_loader))
    sum_loss = sum_iou = seen = done = 0
    while done < limit:
        batch = next(batches)
        x, y = batch["image"].to(device), batch["mask"].to(device)
        probs = model(x)
        loss = criterion(probs, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            sum_loss += loss.item() * len(y)
            sum_iou += calculate_iou(probs.detach(), y) * len(y)
        seen += len(y)
        done += 1
    return sum_loss / seen, sum_iou / seen


def validate_segmentation_epoch(model, val_loader, criterion, device):
    was_training = model.training
    model.eval()
    sum_loss = sum_iou = seen = 0
    with torch.no_grad():
        for batch in iter(val_loader):
            x, y = batch["image"].to(device), batch["mask"].to(device)
            probs = model(x)
            sum_loss += criterion(probs, y).item() * len(y)
            sum_iou += calculate_iou(probs.detach(), y) * len(y)
            seen += len(y)
    model.train(was_training)
    return sum_loss / seen, sum_iou / seen


def evaluate_segmentation_model(model, test_loader, dataset_name="Test"):
    device = next(model.parameters()).device
    model.eval()
    ious = []
    boxes = 0
    with torch.no_grad():
        for batch in test_loader:
            outputs = model(batch["image"].to(device)).cpu()
            masks = batch["mask"].cpu()
            for output, mask in zip(outputs, masks):
                ious.append(calculate_iou(output[None], mask[None]))
            boxes += int(batch["has_box"].sum())
    scores = torch.tensor(ious)
    edges = [0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0]
    distribution = {}
    for low, high in zip(edges[:-1], edges[1:]):
        inside = (scores >= low) & ((scores < high) | (high == 1.0))
        distribution[f"{low:.2f}-{high:.2f}"] = int(inside.sum())
    results = {
        "mean_iou": scores.mean().item(),
        "std_iou": scores.std(unbiased=False).item(),
        "samples_with_boxes": boxes,
        "total_samples": len(ious),
        "box_ratio": boxes / len(ious),
        "iou_distribution": distribution,
    }
    print(f"{dataset_name}: mean IoU {results['mean_iou']:.4f} +- {results['std_iou']:.4f}")
    return results


def visualize_predictions(model, dataset, num_samples=6, save_path=None):
    device = next(model.parameters()).device
    model.eval()
    n = min(num_samples, len(dataset))
    fig, axes = plt.subplots(n, 3, figsize=(7, 2.3 * n), squeeze=False)
    for i in range(n):
        item = dataset[i]
        with torch.no_grad():
            pred = model(item["image"][None].to(device))[0, 0].cpu()
        axes[i, 0].imshow((item["image"] * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0))
        axes[i, 1].imshow(item["mask"][0], cmap="gray")
        axes[i, 2].imshow(pred, cmap="gray", vmin=0, vmax=1)
        for ax, title in zip(axes[i], ("image", "true mask", "prediction")):
            ax.set_title(title)
            ax.axis("off")
    fig.tight_layout()
    if save_path is not None:
        fig.savefig(save_path)
    return fig
