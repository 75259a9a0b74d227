"""Look inside a model: python -m toolkit.inspect cnn [--overfit]

Prints each layer with the shape of its output and its number of parameters, up to the layer that fails if one does
(torchinfo prints no table then, so this one is ours). With --overfit it trains the model alone, without your loop, on
one batch until the loss is near 0, and says what it means if it does not get there.
"""

from __future__ import annotations

import importlib
import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from classification_dataset import create_pathmnist_dataloaders
from synthetic_data import create_box_dataloaders
from toolkit.cli import OneLineParser, in_range, json_object, run_script
from toolkit.errors import UserError, reason_of
from toolkit.experiment import build_model
from toolkit.medmnist_data import inspect, locate
from toolkit.tensorboard_logs import import_writer

ROOT = Path(__file__).resolve().parents[1]
LEARNED = 0.05  # nats; so low a loss on one batch means that the model has learned it by heart
COLUMNS = "{:<26}{:<20}{:<22}{:>12}"


class Layers:
    """Forward hooks on every layer that has no layers in it; `rows` has one row per layer that was run."""

    def __init__(self, model: Any) -> None:
        self.rows: list[tuple[str, str, str, int]] = []
        self.outputs: dict[str, Any] = {}
        self.running = ("", "", "")  # name, kind and shape of the input of the layer that was entered last
        self.is_inside = False
        for name, layer in model.named_modules():
            if not any(layer.children()):
                layer.register_forward_pre_hook(lambda layer, inputs, name=name: self._enter(name, layer, inputs))
                layer.register_forward_hook(lambda layer, _inputs, output, name=name: self._leave(name, layer, output))

    def _enter(self, name: str, layer: Any, inputs: tuple) -> None:
        self.running, self.is_inside = (name or "(model)", type(layer).__name__, shape_of(inputs)), True

    def _leave(self, name: str, layer: Any, output: Any) -> None:
        size = sum(parameter.numel() for parameter in layer.parameters())
        self.rows.append((name or "(model)", type(layer).__name__, shape_of(output), size))
        self.outputs[name], self.is_inside = output, False


def shape_of(value: Any) -> str:
    """'(32, 64, 14, 14)' for a tensor, several of them for a tuple."""
    if isinstance(value, (tuple, list)):
        return ", ".join(map(shape_of, value))
    return str(tuple(value.shape)) if hasattr(value, "shape") else type(value).__name__


def show_layers(model: Any, images: Any) -> Any:
    """Print the table; what the model returned. UserError naming the layer, or the line, that failed."""
    layers = Layers(model)
    try:
        output = model(images)
    except Exception as error:
        if isinstance(error, NotImplementedError) and str(error).startswith("TODO "):
            raise  # a stub: cli.run_script says so
        output, name = error, "{} ({}), which got {}".format(*layers.running)
        where = f"FAILS in {name}" if layers.is_inside else f"FAILS after {name}" if layers.rows else "FAILS"
    print(COLUMNS.format("layer", "kind", "output", "parameters"))
    for name, kind, shape, size in layers.rows:
        print(COLUMNS.format(name, kind, shape, f"{size:,}" if size else "-"))
    if isinstance(output, Exception):
        lines = [frame for frame in traceback.extract_tb(output.__traceback__) if Path(frame.filename).parent == ROOT]
        place = f", {Path(lines[-1].filename).name} line {lines[-1].lineno}: {lines[-1].line}" if lines else ""
        raise UserError(f"{where}{place} -> {reason_of(output)}")
    ran = {name for name, *_rest in layers.rows}
    idle = [name for name, layer in model.named_modules() if name and not any(layer.children()) and name not in ran]
    if idle:
        print(f"never run in forward: {', '.join(idle)}")
    size = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f"{size:,} trainable parameters; functions such as torch.cat or flatten are not layers and have no row")
    return output


def check_output(task: str, output: Any, count: int, num_classes: int) -> None:
    """UserError if the result has the wrong shape or is of the wrong kind."""
    wanted = (count, num_classes) if task == "classification" else (count, 1, 28, 28)
    if tuple(getattr(output, "shape", ())) != wanted:
        raise UserError(f"the model returned {shape_of(output)}; expected {wanted}")
    if task == "classification" and (output.sum(dim=1) - 1).abs().max() < 1e-4 and output.min() >= 0:
        raise UserError("each row of the result sums to 1: return logits, the cross-entropy loss contains the softmax")
    if task == "segmentation" and not (output.min() >= 0 and output.max() <= 1):
        raise UserError("the result is not within 0 and 1: it must be probabilities (a sigmoid at the end)")


def overfit(model: Any, loss_of: Callable, images: Any, steps: int, learning_rate: float, folder: str | None) -> float:
    """Train on one batch and print the loss; returns the last one. `folder`: where histograms for TensorBoard go."""
    optimizer, writer, layers = torch.optim.Adam(model.parameters(), lr=learning_rate), None, None
    if folder:
        writer, layers = import_writer()(folder), Layers(model)
    model.train()
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = loss_of(model(images))
        loss.backward()
        if step == 1:
            still = [name for name, parameter in model.named_parameters() if parameter.grad is None]
            print(f"no gradient reaches: {', '.join(still)}" if still else "a gradient reaches every parameter")
        if writer is not None and (step == 1 or step % 10 == 0):
            for name, parameter in model.named_parameters():
                if parameter.grad is None:
                    continue
                writer.add_histogram(f"gradient/{name}", parameter.grad, step)
            for name, output in layers.outputs.items():
                writer.add_histogram(f"activation/{name}", output, step)
        optimizer.step()
        is_last = step == steps or not loss.isfinite() or loss.item() < LEARNED / 5
        if step in (1, 2, 5, 10, 20, 50) or step % 100 == 0 or is_last:
            print(f"step {step:>4}  loss {loss.item():.4f}", flush=True)
        if is_last:
            break
    if writer is not None:
        writer.close()
        print(f"histograms of gradients and activations: tensorboard --logdir {folder}")
    return loss.item()


def explain(loss: float, evaluated: float, guessing: float) -> str:
    """What the loss on one batch says about the model."""
    if not math.isfinite(loss):
        return "the loss is not finite: a logarithm of 0, a division by 0, or a learning rate far too large"
    if loss > 0.8 * guessing:
        return (
            f"the model has learned nothing (guessing costs {guessing:.2f}): does the result depend on the images? "
            "Look for a ReLU or a softmax after the last layer, for detach() or no_grad(), for layers made in forward"
        )
    if loss > LEARNED:
        return (
            "the loss falls and is not near 0 yet: try --steps 1000 or --learning_rate 0.003; if it stays, the model "
            "is too small, or loses what it needs (early pooling, dropout)"
        )
    if evaluated > 10 * LEARNED:
        return (
            f"learned by heart in training mode, but in evaluation mode the loss is {evaluated:.2f}: the layers that "
            "differ are BatchNorm and Dropout; is BatchNorm used as a layer made once in __init__?"
        )
    return "learned by heart: the model can learn. If real training fails, look at the loop, the loss and the data"


def load_batch(task: str, count: int) -> tuple[Any, Any, int]:
    """Images and labels or masks of one training batch, not augmented, and the number of classes.

    From data/ or the bundled sample.
    """
    source = inspect("pathmnist") or locate("pathmnist", dataset="sample")
    if task == "classification":
        return *next(iter(create_pathmnist_dataloaders(count, source=source, augment="none")[0])), source.num_classes
    batch = next(iter(create_box_dataloaders(count, source=source)[0]))
    return batch["image"], batch["mask"], source.num_classes


def main() -> None:
    """Build the model, show its layers, and train it on one batch if asked."""
    parser = OneLineParser(prog="python -m toolkit.inspect", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model_name", choices=("linear", "mlp", "cnn", "unet"))
    parser.add_argument("--task", choices=("classification", "segmentation"), help="of linear, mlp and cnn")
    parser.add_argument("--model_args", type=json_object, metavar="JSON", help="arguments for the model")
    parser.add_argument("--overfit", action="store_true", help="train on one batch until its loss is near 0")
    parser.add_argument("--steps", type=in_range(int, 1), default=300, help="of --overfit, at most")
    parser.add_argument("--learning_rate", type=in_range(float, 0, open_low=True), default=0.001, help="of --overfit")
    parser.add_argument("--batch_size", type=in_range(int, 2), default=32, help="images in the batch")
    parser.add_argument("--tensorboard", metavar="FOLDER", help="with --overfit: histograms for TensorBoard")
    args = parser.parse_args()
    task = args.task or ("segmentation" if args.model_name == "unet" else "classification")
    if (args.model_name, task) == ("unet", "classification"):
        raise UserError("--task classification has no unet; allowed: linear, mlp, cnn")

    torch.manual_seed(0)
    models = importlib.import_module(f"{task}_models")
    get_model = models.get_model if task == "classification" else models.get_segmentation_model
    model = build_model(get_model, args.model_name, model_args=args.model_args)
    images, wanted, num_classes = load_batch(task, args.batch_size)
    print(f"{task}: {args.model_name} on images {shape_of(images)}")
    check_output(task, show_layers(model, images), len(images), num_classes)
    if args.overfit:
        loss_of = F.cross_entropy if task == "classification" else F.binary_cross_entropy
        guessing = math.log(num_classes if task == "classification" else 2)
        print(f"\ntraining on these {len(images)} images alone; guessing costs {guessing:.3f} nats")
        chosen = (args.steps, args.learning_rate, args.tensorboard)
        loss = overfit(model, lambda output: loss_of(output, wanted), images, *chosen)
        with torch.no_grad():
            evaluated = loss_of(model.eval()(images), wanted).item()
        print(explain(loss, evaluated, guessing))


if __name__ == "__main__":
    run_script(main)
