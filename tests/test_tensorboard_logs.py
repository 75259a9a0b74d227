"""Runs for TensorBoard, read back with TensorBoard's own reader."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import dispatcher
from tests.sweeps import tools
from toolkit import tensorboard_logs
from toolkit.errors import UserError

pytestmark = pytest.mark.provided
pytest.importorskip("tensorboard", reason="the logs are for TensorBoard: pip install tensorboard")


def make_run(folder: Path, epochs: int, is_finished: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"model_name": "cnn", "learning_rate": 0.01, "overwrite": False, "ema_decay": None, "sizes": [1, 2]}
    (folder / "config.json").write_text(json.dumps(settings))
    lines = [f"{epoch},{1 / epoch},{epoch / 10},0.5" for epoch in range(1, epochs + 1)]
    (folder / "history.csv").write_text("\n".join(["epoch,train_loss,val_acc,seconds", *lines, "9,0."]))
    if is_finished:
        results = {"task": "classification", "best_val_acc": 0.3, "seed": 4, "history": {}, "is_sample": True}
        (folder / "results.json").write_text(json.dumps(results))


def read_back(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, object]]:
    """(scalars, hparams) of one run as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    events = EventAccumulator(str(folder)).Reload()
    scalars = {
        tag: [(event.step, round(event.value, 5)) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    content = events.PluginTagToContent(metadata.PLUGIN_NAME) if "hparams" in str(events.summary_metadata) else {}
    start = content.get(metadata.SESSION_START_INFO_TAG)
    if start is None:
        return scalars, {}
    found = metadata.parse_session_start_info_plugin_data(start).hparams
    return scalars, {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


def test_curves_settings_and_final_figures_arrive(tmp_path):
    make_run(tmp_path / "runs/a", 3, is_finished=True)
    assert tensorboard_logs.Logbook([str(tmp_path / "runs")], str(tmp_path / "tb")).look() == 1
    scalars, hparams = read_back(tmp_path / "tb/runs/a")
    assert scalars["acc/val"] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert scalars["loss/train"] == [(1, 1.0), (2, 0.5), (3, 0.33333)]
    assert scalars["final/best_val_acc"][0][1] == 0.3
    assert set(scalars) == {"acc/val", "loss/train", "final/best_val_acc"}
    assert hparams == {"model_name": "cnn", "learning_rate": 0.01, "sizes": "[1, 2]"}


def test_following_adds_each_epoch_once_and_a_second_call_repeats_nothing(tmp_path):
    folder, target = tmp_path / "runs/a", tmp_path / "tb/runs/a"
    make_run(folder, 1)
    logbook = tensorboard_logs.Logbook([str(tmp_path / "runs")], str(tmp_path / "tb"))
    logbook.look()
    assert read_back(target) == ({"acc/val": [(1, 0.1)], "loss/train": [(1, 1.0)]}, {})
    make_run(folder, 3)
    logbook.look()
    make_run(folder, 3, is_finished=True)
    logbook.look()
    logbook.look()
    first, hparams = read_back(target)
    assert [step for step, _ in first["acc/val"]] == [1, 2, 3]
    assert len(first["final/best_val_acc"]) == 1
    assert hparams["model_name"] == "cnn"
    tensorboard_logs.Logbook([str(tmp_path / "runs")], str(tmp_path / "tb")).look()
    assert read_back(target)[0] == first
    make_run(folder, 2)  # started again
    logbook.look()
    assert [step for step, _ in read_back(target)[0]["acc/val"]] == [1, 2]


def test_the_dispatchers_jobs_are_runs(tmp_path, capsys):
    assert tools.sweep(tmp_path, {"learning_rate": [0.1, 0.2], "epochs": 1}, "--num_workers", "2").returncode == 0
    assert dispatcher.main(["report", str(tmp_path / "logs"), "--tensorboard", str(tmp_path / "tb")]) == 0
    assert "2 runs for TensorBoard" in capsys.readouterr().out
    rates = {}
    for folder in (tmp_path / "tb/logs").iterdir():
        scalars, hparams = read_back(folder)
        rates[hparams["learning_rate"]] = scalars["final/best_val_acc"][0][1]
        assert len(scalars["acc/val"]) == 1
    assert rates == {0.1: pytest.approx(0.1), 0.2: pytest.approx(0.2)}


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is not a folder"):
        tensorboard_logs.find_runs([str(tmp_path / "missing")])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        tensorboard_logs.import_writer()
