"""Wrong loops fail in the check that is meant for them, with their cause in the first line."""

from __future__ import annotations

import pytest

from staff.tests.assignments.loops import LOOPS, SEG_TRAIN, TRAIN, both, failures

TRAINS = "        train_loss, train_iou = train_segmentation_epoch(\n"
VALIDATES = (
    "        val_loss, val_iou = validate_segmentation_epoch"
    "(session.evaluation_model(), val_loader, criterion, device)\n"
)

# Name -> (edits, test that must fail, words of the first line that it shows).
WRONG = {
    "no zero_grad": (both("        optimizer.zero_grad()", "        pass"), "test_many_steps", "zero_grad"),
    "no step": (both("        optimizer.step()", "        pass"), "test_trains", "does not train"),
    "no backward": (both("        loss.backward()", "        pass"), "test_trains", "does not train"),
    "no train()": (both("    model.train()", "    pass"), "test_train_mode", "model.train()"),
    "no eval()": (both("    model.eval()", "    pass"), "test_validation_mode", "model.eval()"),
    "max_steps ignored": (both("islice(train_loader, max_steps)", "train_loader"), "test_max_steps", "max_steps"),
    "one step too many": (
        both("islice(train_loader, max_steps)", "islice(train_loader, max_steps and max_steps + 1)"),
        "test_max_steps",
        "one batch more",
    ),
    "an optimizer of its own": (
        both(
            "    model.train()",
            "    optimizer = type(optimizer)(model.parameters(), **optimizer.defaults)\n    model.train()",
        ),
        "test_many_steps",
        "new optimizer was made in each epoch",
    ),
    "an optimizer for each step": (
        both("        optimizer.step()", "        type(optimizer)(model.parameters(), **optimizer.defaults).step()"),
        "test_many_steps",
        "new optimizer was made for each batch",
    ),
    "weight decay by hand too": (
        both(
            "        optimizer.step()\n",
            "        optimizer.step()\n        group = optimizer.param_groups[0]\n"
            "        for weight in model.parameters():\n"
            "            weight.data.mul_(1 - group['lr'] * group['weight_decay'])\n",
        ),
        "test_many_steps",
        "weights",
    ),
    "return in the loop": (
        [
            (
                TRAIN,
                "        seen += len(labels)  # not len(train_loader.dataset): max_steps may end the epoch early\n",
                "        seen += len(labels)\n        return total_loss / seen, correct / seen\n",
            )
        ],
        "test_many_steps",
        "return statement inside the loop",
    ),
    "results swapped": (
        [
            (
                TRAIN,
                "    return total_loss / seen, correct / seen\n    # END SOLUTION 1.5",
                "    return correct / seen, total_loss / seen",
            )
        ],
        "test_validation_figures",
        "wrong order",
    ),
    "percent": (
        [
            (
                TRAIN,
                "    return total_loss / seen, correct / seen\n    # END SOLUTION 1.5",
                "    return total_loss / seen, 100 * correct / seen",
            )
        ],
        "test_validation_figures",
        "percent",
    ),
    "IoU in percent": (
        [
            (
                SEG_TRAIN,
                "    return total_loss / seen, total_iou / seen\n    # END SOLUTION 2.7",
                "    return total_loss / seen, 100 * total_iou / seen",
            )
        ],
        "test_validation_figures",
        "percent",
    ),
    "IoU of nothing": (
        [
            (
                SEG_TRAIN,
                "    return total_loss / seen, total_iou / seen\n    # END SOLUTION 2.7",
                "    return total_loss / seen, 0.0",
            )
        ],
        "test_validation_figures",
        "IoU",
    ),
    "IoU of the batch": (
        [
            (
                SEG_TRAIN,
                "        total_iou += calculate_iou(probabilities, masks) * len(images)\n        seen += len(images)\n"
                "    return total_loss / seen, total_iou / seen\n    # END SOLUTION 2.7",
                "        as_one = (t.reshape(1, 1, -1, 28) for t in (probabilities, masks))\n"
                "        total_iou += calculate_iou(*as_one) * len(images)\n"
                "        seen += len(images)\n    return total_loss / seen, total_iou / seen",
            )
        ],
        "test_validation_figures",
        "all pixels of a batch",
    ),
    "divided by len(loader)": (
        [
            (
                TRAIN,
                "    return total_loss / seen, correct / seen\n    # END SOLUTION 1.4",
                "    return total_loss / len(train_loader), correct / seen",
            )
        ],
        "test_train_averages",
        "divided by the number of batches",
    ),
    "another criterion": (
        [(TRAIN, "loss = criterion(logits, labels)", "loss = nn.CrossEntropyLoss()(logits, labels)")],
        "test_one_step",
        "criterion",
    ),
    "gradients off for good": (
        both("    model.eval()", "    torch.set_grad_enabled(False)\n    model.eval()") + both("@torch.no_grad()", ""),
        "test_validation_figures",
        "leaves them off",
    ),
    "gradients on": (both("@torch.no_grad()", "@torch.enable_grad()"), "test_validation_without_gradients", "no_grad"),
    "validation before training": (
        [
            (SEG_TRAIN, f"{VALIDATES}        # Hint: `history`", "        # Hint: `history`"),
            (SEG_TRAIN, TRAINS, f"{VALIDATES}{TRAINS}"),
        ],
        "test_optimizer",
        "after the last validation",
    ),
    "image turned and not its mask": (
        [
            (
                SEG_TRAIN,
                "        optimizer.zero_grad()",
                "        images = images.flip(-1)\n        optimizer.zero_grad()",
            )
        ],
        "test_one_step",
        "weights",
    ),
    "history of the best so far": (
        [
            (
                TRAIN,
                'history["val_acc"].append(val_acc)',
                'history["val_acc"].append(max([*history["val_acc"], val_acc]))',
            ),
            (
                SEG_TRAIN,
                'history["val_loss"].append(val_loss)',
                'history["val_loss"].append(min([*history["val_loss"], val_loss]))',
            ),
        ],
        "test_history",
        "earlier epoch",
    ),
    "history of running means": (
        [
            (
                TRAIN,
                'history["val_loss"].append(val_loss)',
                'history["val_loss"].append((sum(history["val_loss"]) + val_loss) / (1 + len(history["val_loss"])))',
            )
        ],
        "test_history",
        "val_loss",
    ),
    "training and validation swapped": (
        [(TRAIN, 'history["val_acc"].append(val_acc)', 'history["val_acc"].append(train_acc)')],
        "test_history",
        "val_acc",
    ),
    "history in percent": (
        [(SEG_TRAIN, 'history["val_iou"].append(val_iou)', 'history["val_iou"].append(100 * val_iou)')],
        "test_history",
        "percent",
    ),
    "an optimizer for each epoch": (
        [
            (
                TRAIN,
                "        train_loss, train_acc = train_epoch(",
                "        optimizer = torch.optim.Adam(model.parameters(), learning_rate, weight_decay=weight_decay)\n"
                "        train_loss, train_acc = train_epoch(",
            )
        ],
        "test_optimizer",
        "make one before the loop",
    ),
    "weight decay doubled": (
        [
            (
                TRAIN,
                "    schedule = (epochs, learning_rate, weight_decay,",
                "    schedule = (epochs, learning_rate, 2 * weight_decay,",
            )
        ],
        "test_optimizer",
        "reaches the optimizer as 0.04",
    ),
    "weight decay forgotten": (
        [
            (
                TRAIN,
                "    schedule = (epochs, learning_rate, weight_decay,",
                "    schedule = (epochs, learning_rate, 0.0,",
            )
        ],
        "test_optimizer",
        "no effect",
    ),
    "weight decay in loss and optimizer": (
        [
            (
                TRAIN,
                "    history, optimizer, device =",
                "    cross_entropy = criterion\n"
                "    criterion = lambda logits, labels: cross_entropy(logits, labels) + weight_decay / 2 * sum(\n"
                "        p.square().sum() for p in model.parameters())\n    history, optimizer, device =",
            )
        ],
        "test_optimizer",
        "applied twice",
    ),
    "two epochs of training for one": (
        [
            (
                TRAIN,
                "        val_loss, val_acc = validate_epoch(",
                "        train_epoch(model, train_loader, optimizer, criterion, device, max_steps_per_epoch)\n"
                "        val_loss, val_acc = validate_epoch(",
            )
        ],
        "test_optimizer",
        "optimizer steps",
    ),
    "trained on validation data": (
        [
            (
                TRAIN,
                "        val_loss, val_acc = validate_epoch(",
                "        train_epoch(model, val_loader, optimizer, criterion, device)\n"
                "        val_loss, val_acc = validate_epoch(",
            )
        ],
        "test_validation_data_unused",
        "validation data",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_loops_fail_with_their_cause(tmp_path, name):
    edits, test, words = WRONG[name]
    todos = [todo for todo in LOOPS if (TRAIN if todo[0] == "1" else SEG_TRAIN) in {edit[0] for edit in edits}]
    found = failures(tmp_path, edits, todos)
    assert test in found, f"passed; failed were {sorted(found)}"
    assert words in found[test].splitlines()[0]
