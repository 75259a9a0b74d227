"""The settings of a training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """All flags of train.py, which says what each means and allows; a run's config.json holds the same names."""

    # Images
    data: str
    image_size: int
    fit: str
    cache: str
    # Model and training
    model_name: str
    weights: str
    num_epochs: int
    batch_size: int
    max_steps_per_epoch: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    schedule: str
    ema_decay: float
    patience: int | None
    class_weights: bool
    oversample: bool
    folds: int
    seed: int
    # Augmentation
    augment: str
    flip: str | None
    rotation: float
    intensity: float
    stain: float | None
    # Machine and output
    device: str
    precision: str
    output_dir: str | None
    overwrite: bool
    results_path: str | None
    evaluate_test: bool
    resume: str | None
    config: str | None
