"""Heat maps for images and volumes, and whether they may be believed: random weights, deletion, pointing game.

python -m labs.medmnist_experiments.gradcam
python -m labs.medmnist_experiments.gradcam --flag adrenalmnist3d
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from labs.medmnist_experiments import augmentation, cnn3d, common
from toolkit.cli import OneLineParser, in_range, not_empty, run_script
from toolkit.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    import torch

    from labs.medmnist_experiments.attention import Explained
    from labs.medmnist_experiments.common import Experiment
    from labs.medmnist_experiments.tasks import Task

METRICS = ("area under deletion", "correlation with Grad-CAM", "highest place on the organ")
SHARED = (
    "flag",
    "size",
    "data_root",
    "batch_size",
    "device",
    "precision",
)  # flags that the script of the network has, too
QUICK_SAMPLES = 16
TOLERANCE = 2  # voxels: half of a cell of the 7 x 7 x 7 map that is enlarged to 28 x 28 x 28


def build_parser() -> OneLineParser:
    """The flags; nothing heavy is imported for --help."""
    parser = common.build_parser("gradcam", __doc__.splitlines()[0], flag="breastmnist", epochs=1, seeds=3)
    parser.set_defaults(epochs=None)  # as many as the script of the network takes
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


def main(argv: list[str] | None = None) -> None:
    """Find or train the networks, explain validation samples, measure; the test split takes no part."""
    args = build_parser().parse_args(argv)
    if importlib.util.find_spec("captum") is None:  # said before anything is trained
        raise UserError("Grad-CAM needs captum, which is not installed: pip install captum")
    experiment = common.begin("gradcam", args)
    models, task = networks(args)
    found = [measure(experiment, task, model) for model in models]
    first = found[0]
    draw(experiment, task, first)
    facts = {
        "randomisation": [one["randomisation"] for one in found],
        "deletion": [one["curves"] for one in found],
        "between_two_trainings": between_trainings(models),
        "layer": models[0].layer,
        "samples": len(models[0].samples),
        "chance_of_pointing": first["chance"],
    }
    common.report(experiment, rows_of(found, facts), METRICS, facts, beside_published=False)


def networks(args: Namespace) -> tuple[list[Explained], Task]:
    """The networks of cnn3d or augmentation, from their folder or trained into it, and what they are asked."""
    script, variant = (cnn3d, cnn3d.VARIANT) if args.flag.endswith("3d") else (augmentation, "all")
    words = [word for name in SHARED for word in (f"--{name}", str(getattr(args, name)))]
    words += ["--epochs", str(args.epochs)] if args.epochs else []
    words += ["--seeds", str(args.seeds), *(["--quick"] if args.quick else [])]
    words += ["--output_dir", args.model_dir] if args.model_dir else []
    print("networks:")
    source, task = script.begin(script.build_parser().parse_args(words))
    if script is cnn3d:
        common.run_seeds(source, variant, lambda _seed, run: cnn3d.train(source, task, run))
        models = [cnn3d.trained(source, task, seed) for seed in source.seeds]
    else:
        common.run_seeds(source, variant, lambda _seed, run: augmentation.train(source, task, variant, run))
        models = [augmentation.trained(source, task, variant, seed) for seed in source.seeds]
    count = min(args.samples, QUICK_SAMPLES) if args.quick else args.samples
    return [explain(source, task, model, count) for model in models], task


def explain(source: Experiment, task: Task, model: Any, count: int) -> Explained:
    """The network, its layer, and the first `count` validation samples with what it says of them."""
    import torch

    from labs.medmnist_experiments.attention import Explained
    from labs.medmnist_experiments.networks import attention_layer
    from toolkit.augment import normalize
    from toolkit.devices import evaluating

    by_class = task.kind == "classes"
    network = model if by_class else model.network
    samples = normalize(source.source.read("val").images[:count].contiguous()).to(source.device)
    layer = attention_layer(network, samples[:2])
    name = next(name for name, module in network.named_modules() if module is layer)
    with evaluating(network):
        targets = torch.cat([network(part).argmax(dim=1) for part in samples.split(64)])
    return Explained(network, name, samples, targets.clone(), by_class)


def measure(experiment: Experiment, task: Task, explained: Explained) -> dict[str, Any]:
    """All figures of one network."""
    import torch

    from labs.medmnist_experiments import attention
    from toolkit.gradcam import randomised

    maps = explained.maps()
    torch.manual_seed(0)
    random_maps = explained.maps(randomised(explained.network))
    blank = float(torch.quantile(explained.samples.flatten()[:100_000].float().cpu(), 0.5))
    curves = attention.deletion_curves(explained, {"map of a random network": random_maps}, blank)
    truth = organ(explained.samples)
    pointing: dict[str, float] = {}
    chance = None
    if truth is not None:
        for name, values in {"Grad-CAM": maps, "map of a random network": random_maps}.items():
            hits, by_chance = attention.pointing_game(values, truth, TOLERANCE)
            pointing[name], chance = float(hits.mean()), float(by_chance.mean())
    steps = attention.randomisation(explained)
    return {
        "explained": explained,
        "maps": maps,
        "curves": {name: values.mean(axis=0).tolist() for name, values in curves.items()},
        "areas": {name: float(attention.area(values).mean()) for name, values in curves.items()},
        "randomisation": {name: attention.mean_of(values) for name, values in steps.items()},
        "pointing": pointing,
        "chance": chance,
        "blank": blank,
    }


def organ(samples: torch.Tensor) -> torch.Tensor | None:
    """Where the organ is, bool (N, D, H, W), for volumes that are masks (AdrenalMNIST3D); None where nobody knows."""
    if samples.dim() != 5 or len(samples[:8].unique()) != 2:
        return None
    return samples[:, 0] > 0


def between_trainings(models: list[Explained]) -> list[float | None]:
    """Correlation of the maps of the first network with those of each other one, for the same class."""
    from labs.medmnist_experiments import attention

    first = models[0]
    maps = first.maps()
    return [attention.mean_of(attention.similarity(maps, first.maps(other.network))) for other in models[1:]]


def rows_of(found: list[dict[str, Any]], facts: dict[str, Any]) -> list[common.Row]:
    """The table: one line for each order of deletion, one for chance."""
    where = f"{facts['samples']} validation samples"
    rows = []
    for name in found[0]["areas"]:
        values = {METRICS[0]: [one["areas"][name] for one in found]}
        values[METRICS[2]] = [one["pointing"][name] for one in found if name in one["pointing"]]
        if name == "map of a random network":
            last = [list(one["randomisation"].values())[-1] for one in found]
            values[METRICS[1]] = [value for value in last if value is not None]
        rows.append(common.Row(name, values, where))
    again = [value for value in facts["between_two_trainings"] if value is not None]
    rows.append(common.Row("map of another training", {METRICS[1]: again}, where))
    if facts["chance_of_pointing"] is not None:
        rows.append(common.Row("a place at random", {METRICS[2]: [facts["chance_of_pointing"]]}, where))
    return rows


def draw(experiment: Experiment, task: Task, found: dict[str, Any]) -> None:
    """Heat maps of right and wrong answers; randomisation and deletion as curves."""
    from labs.medmnist_experiments import pictures

    explained, maps = found["explained"], found["maps"]
    labels = experiment.source.read("val").labels[: len(maps)]
    scores = explained.scores(explained.samples)
    said = explained.targets.cpu()
    picked, names = chosen(task, labels, said, scores)
    title = f"{experiment.source.name}, validation: what spoke for the answer"
    path = experiment.folder / "heatmaps.png"
    if maps.dim() == 4:
        pictures.slices(explained.samples[picked], names, title, path, maps[picked])
    else:
        pictures.overlays(explained.samples[picked], maps[picked], names, title, path)
    pictures.measurements(
        found["randomisation"], found["curves"], f"{experiment.source.name}, n = {len(maps)}", experiment.folder
    )


def chosen(task: Task, labels: torch.Tensor, said: torch.Tensor, scores: Any) -> tuple[list[int], list[str]]:
    """The four surest right and the four surest wrong answers, and what to write above each."""
    order = sorted(range(len(said)), key=lambda i: -scores[i])
    if task.kind == "classes":
        right = [bool(said[i] == labels[i]) for i in range(len(said))]
        names = [f"{task.class_names[said[i]]} ({scores[i]:.0%})\ntrue: {task.class_names[labels[i]]}" for i in order]
    else:
        truth = task.targets(labels)
        right = [bool(truth[i, said[i]]) for i in range(len(said))]
        question = [f"above {name}" for name in task.class_names] if task.kind == "grades" else task.class_names
        names = [f"{question[said[i]]} ({scores[i]:.0%})\n{'right' if right[i] else 'wrong'}" for i in order]
    named = dict(zip(order, names, strict=True))
    picked = [i for i in order if right[i]][:4] + [i for i in order if not right[i]][:4]
    return picked, [named[i] for i in picked]


if __name__ == "__main__":
    run_script(main)
