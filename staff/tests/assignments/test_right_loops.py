"""Right loops as students write them keep all checks of Project 2's loops."""

from __future__ import annotations

import pytest

from staff.tests.assignments.loops import LOOPS, SEG_TRAIN, TRAIN, both, failures

RIGHT = {
    "zero_grad after the step": both("        optimizer.zero_grad()", "        pass")
    + both("        optimizer.step()\n", "        optimizer.step()\n        optimizer.zero_grad()\n"),
    "clipping": both(
        "loss.backward()\n", "loss.backward()\n        nn.utils.clip_grad_norm_(model.parameters(), 0.5)\n"
    ),
    "clipping by value": both(
        "loss.backward()\n", "loss.backward()\n        nn.utils.clip_grad_value_(model.parameters(), 0.1)\n"
    ),
    "averages of batches": [
        (TRAIN, "total_loss += loss.item() * len(labels)", "total_loss += loss.item()"),
        (
            TRAIN,
            "seen += len(labels)  # not",
            "seen, batches = seen + len(labels), locals().get('batches', 0) + 1  # not",
        ),
        (
            TRAIN,
            "    return total_loss / seen, correct / seen\n    # END SOLUTION 1.4",
            "    return total_loss / batches, correct / seen\n    # END SOLUTION 1.4",
        ),
    ],
    "tensors": [
        (
            TRAIN,
            "    return total_loss / seen, correct / seen\n    # END SOLUTION 1.4",
            "    return torch.tensor(total_loss / seen, requires_grad=True), torch.tensor(correct / seen)",
        ),
        (
            TRAIN,
            "    return total_loss / seen, correct / seen\n    # END SOLUTION 1.5",
            "    import numpy as np\n    return np.float32(total_loss / seen), np.float64(correct / seen)",
        ),
    ],
    "flips of single images and turns": [
        (
            TRAIN,
            "        optimizer.zero_grad()",
            "        images = torch.stack([i.flip(-1) if torch.rand(()) < 0.5 else i.mT for i in images])\n"
            "        optimizer.zero_grad()",
        ),
        (
            SEG_TRAIN,
            "        optimizer.zero_grad()",
            "        if torch.rand(()) < 0.5:\n            images, masks = images.flip(-1), masks.flip(-1)\n"
            "        images, masks = images.roll((3, 5), (2, 3)), masks.roll((3, 5), (2, 3))\n"
            "        optimizer.zero_grad()",
        ),
    ],
    "the best weights come back": [
        (
            TRAIN,
            "        # END SOLUTION 1.6\n    return",
            "        if val_acc >= max(history['val_acc']):\n"
            "            best = {n: t.clone() for n, t in model.state_dict().items()}\n"
            "    model.load_state_dict(best)\n    return",
        ),
    ],
    "an optimizer and a schedule of its own": [
        (
            TRAIN,
            "    for _epoch in session.epochs():",
            "    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)\n"
            "    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)\n"
            "    for _epoch in session.epochs():",
        ),
        (TRAIN, "        # Hint: `history`", "        plateau.step(val_loss)\n        # Hint: `history`"),
    ],
    "a progress bar": both(
        "        optimizer.zero_grad()",
        "        bar = __import__('tqdm').tqdm([0], disable=True)\n"
        "        bar.set_postfix(loss=1.0)\n        optimizer.zero_grad()",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_loops_keep_all_checks(tmp_path, name):
    assert failures(tmp_path, RIGHT[name], LOOPS) == {}


def test_the_reference_passes_with_other_secrets(tmp_path):
    for seed in range(1, 4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert failures(folder, [], LOOPS, seed) == {}
