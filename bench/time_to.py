"""Seconds until 0.90 validation accuracy on the bundled sample: our long recipe against one built for speed.

    python -m bench.time_to                       # both, 5 seeds; about an hour on two slow cores, resumes
    python -m bench.time_to --recipes fast --seeds 1
    python -m bench.time_to --quick

"long" is configs/classification_long.json. "fast" takes facts of Jordan, "94% on CIFAR-10 in 3.29 seconds on a single
GPU" (2024), and its later optimizer: a first layer that whitens patches of the training images and is not trained,
small blocks with GELU, orthogonalised momentum for the convolutions, label smoothing, averaged weights, few epochs.
Every epoch is validated, as in a training; the clock runs from the first batch on. A recipe has a fixed number of
epochs, because its learning rate falls over them: one that ends below the target has no time.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from classification_dataset import create_pathmnist_dataloaders
from classification_models import CNNModel
from classification_train import train_epoch, validate_epoch
from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.devices import describe, place_model, seed_everything
from toolkit.errors import check_choice
from toolkit.mean_sd import mean_sd
from toolkit.quickstart import print_table
from toolkit.runs import read_json, writable_folder
from toolkit.schedules import average_weights
from toolkit.study import Study

TARGET = 0.90
CPU = torch.device("cpu")


class FastNet(nn.Module):
    """Whitening of 2 x 2 patches, then three stages of small convolutions with half the sides each."""

    def __init__(self, images: torch.Tensor, num_classes: int = 9) -> None:
        """images: float32 (N, 3, H, W) in [-1, 1], whose patches are whitened."""
        super().__init__()
        self.whiten = whitening_layer(images)
        widths = (self.whiten.out_channels, 64, 128, 256)
        stages = [_stage(inside, outside) for inside, outside in itertools.pairwise(widths)]
        self.features = nn.Sequential(nn.GELU(), *stages, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 28, 28) → logits (B, num_classes)."""
        return self.classifier(self.features(self.whiten(images))) / 4  # smaller logits at the start


def _stage(inside: int, outside: int) -> nn.Sequential:
    """Convolution, pooling before the normalisation (a quarter of the work), GELU."""
    convolution = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.MaxPool2d(2), nn.BatchNorm2d(outside, momentum=0.3), nn.GELU())


def whitening_layer(images: torch.Tensor, side: int = 2, floor: float = 5e-4) -> nn.Conv2d:
    """A frozen convolution: on patches of `images` its outputs are uncorrelated, with variance 1; and their negatives.

    Its filters are the eigenvectors of the patches' covariance, each divided by the root of its eigenvalue. floor: is
    added to the eigenvalues, so that directions in which the patches hardly differ are not blown up.
    """
    patches = F.unfold(images, side).transpose(1, 2).flatten(0, 1)  # (N * places, 3 * side^2)
    values, vectors = torch.linalg.eigh(patches.T.cov())
    filters = (vectors / (values + floor).sqrt()).T.reshape(-1, images.shape[1], side, side)
    layer = nn.Conv2d(images.shape[1], 2 * len(filters), side, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.cat([filters, -filters]))
    return layer


class Orthogonal(torch.optim.Optimizer):
    """Nesterov momentum whose step for a matrix is made orthogonal (Jordan et al., "Muon", 2024).

    All directions of a layer then move equally far, also those that have a small gradient. For weights with two and
    more dimensions. lr: length of a step, as a share of the weight's own length, which is kept.
    """

    def __init__(self, parameters: Any, lr: float, momentum: float = 0.6) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step for every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                memory = self.state[weight].setdefault("momentum", torch.zeros_like(weight.grad))
                memory.mul_(group["momentum"]).add_(weight.grad)
                gradient = weight.grad.add(memory, alpha=group["momentum"])
                length = weight.norm()
                change = orthogonalised(gradient.flatten(1)).view_as(weight)
                weight.sub_(change, alpha=group["lr"] * length / change.norm())
                weight.mul_(length / weight.norm())


def orthogonalised(matrix: torch.Tensor, steps: int = 3) -> torch.Tensor:
    """About U V^T of matrix = U S V^T, by Newton and Schulz's iteration with the polynomial of Jordan et al."""
    a, b, c = 3.4445, -4.7750, 2.0315
    turned = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if turned else matrix
    found = found / (found.norm() + 1e-7)
    for _ in range(steps):
        square = found @ found.T
        found = a * found + (b * square + c * square @ square) @ found
    return found.T if turned else found


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. optimizers: (model) → each with its highest learning rate."""

    build: Callable[[torch.Tensor], nn.Module]
    optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]]
    epochs: int
    steps: int
    batch_size: int
    augment: str
    label_smoothing: float
    ema_decay: float


def long_recipe() -> Recipe:
    """configs/classification_long.json."""
    config = read_json("configs/classification_long.json")

    def optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
        return [torch.optim.AdamW(model.parameters(), config["learning_rate"], weight_decay=config["weight_decay"])]

    names = ("batch_size", "augment", "label_smoothing", "ema_decay")
    facts = {name: config[name] for name in names}
    return Recipe(lambda _: CNNModel(), optimizers, config["num_epochs"], config["max_steps_per_epoch"], **facts)


def fast_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Orthogonalised steps for the convolutions, AdamW for what is not a matrix of features, and for the last layer."""
    matrices = [weight for weight in model.features.parameters() if weight.dim() == 4]
    rest = [weight for weight in model.features.parameters() if weight.dim() < 4]
    return [Orthogonal(matrices, 0.1), torch.optim.AdamW([*rest, *model.classifier.parameters()], 0.01)]


class Together:
    """Several optimizers, each with its one-cycle schedule, that the training loop steps as if they were one."""

    def __init__(self, optimizers: list[torch.optim.Optimizer], steps: int, after: Callable[[], None]) -> None:
        """steps: of the whole training. after: is called after each of them."""
        self.optimizers, self.after = optimizers, after
        self.schedules = [
            torch.optim.lr_scheduler.OneCycleLR(
                one, one.param_groups[0]["lr"], steps, cycle_momentum=not isinstance(one, Orthogonal)
            )
            for one in optimizers
        ]

    def zero_grad(self) -> None:
        """Forget the gradients of all."""
        for one in self.optimizers:
            one.zero_grad()

    def step(self) -> None:
        """One step of all, at the schedule's next rate."""
        for one in (*self.optimizers, *self.schedules):
            one.step()
        self.after()


RECIPES: dict[str, Callable[[], Recipe]] = {
    "long": long_recipe,
    "fast": lambda: Recipe(FastNet, fast_optimizers, 16, 50, 64, "strong", 0.1, 0.95),
}


def build_parser() -> OneLineParser:
    """The flags of this benchmark."""
    parser = OneLineParser(prog="python -m bench.time_to", description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--seeds", type=in_range(int, 1), default=5, help="seeds 0 .. N-1")
    parser.add_argument("--output_root", default="runs/time_to", help="finished seeds are read again")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs of two steps")
    return parser


def train(recipe: Recipe, seed: int, epochs: int, steps: int) -> dict[str, Any]:
    """Train → accuracies and seconds after each epoch (wall and processor), and those of the first at the target."""
    seed_everything(seed)
    options = {"dataset": "sample", "augment": recipe.augment, "seed": seed}
    train_loader, val_loader, _classes = create_pathmnist_dataloaders(recipe.batch_size, **options)
    images, _labels = train_loader.dataset.__getitems__(range(len(train_loader.dataset))).stacked
    model = place_model(recipe.build(images), CPU)
    averaged, optimizers = average_weights(model, recipe.ema_decay), recipe.optimizers(model)
    together = Together(optimizers, max(2, epochs * steps), lambda: averaged.update_parameters(model))
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    found: dict[str, Any] = {"accuracy": [], "seconds": [], "cpu_seconds": []}
    started = time.perf_counter(), time.process_time()
    for epoch in range(epochs):
        train_epoch(model, train_loader, together, criterion, CPU, steps)
        found["accuracy"].append(validate_epoch(averaged, val_loader, criterion, CPU)[1])
        found["seconds"].append(time.perf_counter() - started[0])
        found["cpu_seconds"].append(time.process_time() - started[1])
        shown = f"validation accuracy {found['accuracy'][-1]:.4f} after {found['seconds'][-1]:.1f} s"
        print(f"epoch {epoch + 1}/{epochs}  {shown}, {found['cpu_seconds'][-1]:.1f} s of processor time", flush=True)
    return found


def run_once(name: str, seed: int, quick: bool) -> dict[str, Any]:
    """Facts for the results of one seed."""
    recipe = RECIPES[name]()
    epochs, steps = (2, 2) if quick else (recipe.epochs, recipe.steps)
    found = train(recipe, seed, epochs, steps)
    reached = next((number for number, value in enumerate(found["accuracy"]) if value >= TARGET), None)
    times = {clock: None if reached is None else found[clock][reached] for clock in ("seconds", "cpu_seconds")}
    return {"validation": {"accuracy": found["accuracy"][-1]}, "curve": found, "until_target": times}


def row(name: str, runs: list[dict[str, Any]]) -> tuple[str, ...]:
    """A line of the table from the runs of all seeds; a mean of times only where every seed has one."""
    last = [run["validation"]["accuracy"] for run in runs]
    times = {clock: [run["until_target"][clock] for run in runs] for clock in ("seconds", "cpu_seconds")}
    reached = sum(value is not None for value in times["seconds"])
    shown = [mean_sd(values) if reached == len(runs) else "-" for values in times.values()]
    whole = statistics.mean(run["curve"]["seconds"][-1] for run in runs)
    return (name, f"{reached} of {len(runs)}", *shown, f"{whole:.1f}", mean_sd(last))


def main() -> None:
    """Train every recipe with every seed and print the table."""
    args = build_parser().parse_args()
    for name in args.recipes:
        check_choice("recipes", name, RECIPES)
    folder = writable_folder(f"{args.output_root}{'-quick' if args.quick else ''}", "--output_root")
    study = Study(folder, {"quick": args.quick}, range(1 if args.quick else args.seeds), replace_changed=True)
    runs = {
        name: study.train(name, lambda seed, run, name=name: run_once(name, seed, args.quick)) for name in args.recipes
    }
    heads = (
        "recipe",
        f"seeds at {TARGET:.2f}",
        "seconds until then",
        "processor seconds",
        "whole run",
        "last accuracy",
    )
    print_table(heads, [row(name, found) for name, found in runs.items()])
    quick = "; QUICK RUN: these numbers mean nothing" if args.quick else ""
    print(f"\nbundled sample, validation (n = 149); {describe(CPU)}, float32{quick}")


if __name__ == "__main__":
    run_script(main)
