"""Heat maps for images and volumes, and whether they may be believed: random weights, deletion, pointing game.

python -m labs.medmnist_experiments.gradcam
python -m labs.medmnist_experiments.gradcam --flag adrenalmnist3d
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from labs.medmnist_experiments import attention, augmentation, cnn3d, common, pictures
from labs.medmnist_experiments.attention import Explained
from labs.medmnist_experiments.command_line import Settings, shared_parser
from labs.medmnist_experiments.common import Experiment
from labs.medmnist_experiments.networks import attention_layer
from labs.medmnist_experiments.tasks import Task
from toolkit.augment import normalize
from toolkit.cli import OneLineParser, in_range, not_empty, run_script
from toolkit.devices import evaluating
from toolkit.errors import UserError
from toolkit.gradcam import randomised
from toolkit.study import TableRow

METRICS = ("area under deletion", "correlation with Grad-CAM", "highest place on the organ")
SHARED = ("flag", "size", "data_root", "batch_size", "device", "precision")  # with the script of the networks
RANDOM = "map of a random network"
QUICK_SAMPLES = 16
TOLERANCE = 2  # voxels: half of a cell of the 7 x 7 x 7 map that is enlarged to 28 x 28 x 28


def build_parser() -> OneLineParser:
    """The flags of all experiments and those of this one; epochs: as many as the script of the networks takes."""
    parser = shared_parser("gradcam", __doc__.splitlines()[0], flag="breastmnist", epochs=None, seeds=3)
    group = parser.add_argument_group("Grad-CAM")
    group.add_argument(
        "--model_dir",
        type=not_empty,
        metavar="FOLDER",
        help="output folder of cnn3d or augmentation, whose networks are explained (default: theirs for this flag); "
        "a network that is not there is trained into it",
    )
    group.add_argument("--samples", type=in_range(int, 8), default=128, help="validation samples that are measured")
    return parser


@dataclass(frozen=True)
class Measured:
    """What was measured of one network."""

    explained: Explained
    maps: torch.Tensor
    curves: dict[str, np.ndarray]  # order of deletion → probability of the answer over the share of blanked places
    correlations: dict[str, float | None]  # random from this layer on → correlation with the trained network's maps
    pointing: dict[str, float]  # maps → share whose highest place is on the organ; empty where it is unknown
    chance: float | None


def main(argv: list[str] | None = None) -> None:
    """Find or train the networks, explain validation samples, measure; the test split takes no part."""
    args = build_parser().parse_args(argv)
    if importlib.util.find_spec("captum") is None:  # reported before anything is trained
        raise UserError("Grad-CAM needs captum, which is not installed: pip install captum")
    experiment = common.begin("gradcam", vars(args))
    source, models = networks(experiment.settings, args.model_dir)
    count = min(args.samples, QUICK_SAMPLES) if args.quick else args.samples
    explained = [explain(source, model, count) for model in models]
    found = [measure(one) for one in explained]
    draw(experiment, found[0])
    facts = {
        "randomisation": [one.correlations for one in found],
        "deletion": [{name: values.mean(axis=0).tolist() for name, values in one.curves.items()} for one in found],
        "between_two_trainings": between_trainings(explained),
        "layer": explained[0].layer,
        "samples": len(explained[0].samples),
        "chance_of_pointing": found[0].chance,
    }
    rows = rows_of(found, facts["between_two_trainings"], f"{facts['samples']} validation samples")
    common.report(experiment, rows, METRICS, facts, with_published=False)


def networks(settings: Settings, model_dir: str | None) -> tuple[Experiment, list[nn.Module]]:
    """The networks of cnn3d or augmentation, from their folder or trained into it."""
    words = [word for name in SHARED for word in (f"--{name}", str(getattr(settings, name)))]
    words += ["--epochs", str(settings.epochs)] if settings.epochs else []
    words += ["--seeds", str(settings.seeds), *(["--quick"] if settings.quick else [])]
    words += ["--output_dir", model_dir] if model_dir else []
    print("networks:")
    return (cnn3d if settings.flag.endswith("3d") else augmentation).finished_networks(words)


def explain(source: Experiment, model: nn.Module, count: int) -> Explained:
    """The network, its layer, and the first `count` validation samples with what it predicts for them."""
    by_class = source.task.kind == "classes"
    network = model if by_class else model.network
    samples = normalize(source.source.read("val").images[:count].contiguous()).to(source.device)
    layer = attention_layer(network, samples[:2])
    name = next(name for name, module in network.named_modules() if module is layer)
    with evaluating(network):
        targets = torch.cat([network(part).argmax(dim=1) for part in samples.split(attention.BATCH_SIZE)])
    return Explained(network, name, samples, targets.clone(), by_class)


def measure(explained: Explained) -> Measured:
    """Everything about one network."""
    maps = explained.maps()
    torch.manual_seed(0)
    random_maps = explained.maps(randomised(explained.network))
    blank = float(torch.quantile(explained.samples.flatten()[:100_000].float().cpu(), 0.5))
    curves = attention.deletion_curves(explained, {RANDOM: random_maps}, blank)
    truth = organ(explained.samples)
    pointing: dict[str, float] = {}
    chance = None
    if truth is not None:
        for name, values in {"Grad-CAM": maps, RANDOM: random_maps}.items():
            hits, by_chance = attention.pointing_game(values, truth, TOLERANCE)
            pointing[name], chance = float(hits.mean()), float(by_chance.mean())
    steps = {name: attention.mean_of(values) for name, values in attention.randomisation(explained).items()}
    return Measured(explained, maps, curves, steps, pointing, chance)


def organ(samples: torch.Tensor) -> torch.Tensor | None:
    """Where the organ is, bool (N, D, H, W), for volumes that are masks (AdrenalMNIST3D); None where it is unknown."""
    if samples.dim() != 5 or len(samples[:8].unique()) != 2:
        return None
    return samples[:, 0] > 0


def between_trainings(explained: list[Explained]) -> list[float | None]:
    """Correlation of the maps of the first network with those of each other one, for the same class."""
    first = explained[0]
    maps = first.maps()
    others = [first.maps(other.network) for other in explained[1:]]
    return [attention.mean_of(attention.similarity(maps, other)) for other in others]


def rows_of(found: list[Measured], between: list[float | None], where: str) -> list[TableRow]:
    """The table: one line for each order of deletion, one for another training, one for chance."""
    rows = []
    for name in found[0].curves:
        values = {METRICS[0]: [float(attention.area(one.curves[name]).mean()) for one in found]}
        values[METRICS[2]] = [one.pointing[name] for one in found if name in one.pointing]
        if name == RANDOM:
            last = [list(one.correlations.values())[-1] for one in found]
            values[METRICS[1]] = [value for value in last if value is not None]
        rows.append(TableRow(name, values, where))
    again = [value for value in between if value is not None]
    rows.append(TableRow("map of another training", {METRICS[1]: again}, where))
    if found[0].chance is not None:
        rows.append(TableRow("a place at random", {METRICS[2]: [found[0].chance]}, where))
    return rows


def draw(experiment: Experiment, found: Measured) -> None:
    """Heat maps of right and wrong answers; randomisation and deletion as curves."""
    explained, maps = found.explained, found.maps
    labels = experiment.source.read("val").labels[: len(maps)]
    scores = explained.scores(explained.samples)
    picked, names = chosen(experiment.task, labels, explained.targets.cpu(), scores)
    title = f"{experiment.source.name}, validation: what spoke for the answer"
    show = pictures.overlays if maps.dim() == 3 else pictures.slices
    show(explained.samples[picked], names, title, experiment.folder / "heatmaps.png", maps=maps[picked])
    curves = {name: values.mean(axis=0) for name, values in found.curves.items()}
    title = f"{experiment.source.name}, n = {len(maps)}"
    pictures.measurements(found.correlations, curves, title, experiment.folder)


def chosen(
    task: Task, labels: torch.Tensor, predicted: torch.Tensor, scores: np.ndarray
) -> tuple[list[int], list[str]]:
    """The four most confident right and wrong answers, and what to write above each."""
    order = np.argsort(-scores, kind="stable").tolist()
    if task.kind == "classes":
        right = (predicted == labels).tolist()
        answers = [f"{task.class_names[predicted[i]]} ({scores[i]:.0%})" for i in range(len(order))]
        below = [f"true: {task.class_names[label]}" for label in labels]
    else:
        right = task.targets(labels).gather(1, predicted[:, None])[:, 0].bool().tolist()
        question = [f"above {name}" for name in task.class_names] if task.kind == "grades" else task.class_names
        answers = [f"{question[predicted[i]]} ({scores[i]:.0%})" for i in range(len(order))]
        below = ["right" if is_right else "wrong" for is_right in right]
    picked = [i for i in order if right[i]][:4] + [i for i in order if not right[i]][:4]
    return picked, [f"{answers[i]}\n{below[i]}" for i in picked]


if __name__ == "__main__":
    run_script(main)
