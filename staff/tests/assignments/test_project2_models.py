"""What the checks of Project 2's models take for right and for wrong; trainings are left to staff.measure."""

from __future__ import annotations

import numpy as np
import pytest

from staff.assignments.project2.graded_tests import test_2_models
from staff.grader.client import CheckFailed
from staff.quality.bank import load_bank
from staff.tests.assignments.loops import failures
from staff.tests.local_student import LocalStudent, reference_with

MODELS, SEG_MODELS = "classification_models.py", "segmentation_models.py"
CNN = """        self.features = nn.Sequential(
            conv_block(IMAGE_SHAPE[0], 64),"""
ENCODE_28 = "        skip_28 = self.encoder_28(x)"
UNET_CALL = "        return torch.sigmoid(self.head(features))"
ENCODE = "        return torch.sigmoid(self.decoder(self.encoder(x)))"
MLP_CALL = "        return self.layers(x.flatten(start_dim=1))"
LINEAR_MASK = """        logits = self.pixel_map(x.flatten(start_dim=1))  # (B, out_channels * H * W)
"""
FULL_SIZE = """        self.full = nn.Sequential(
            *(nn.Sequential(nn.LazyConv2d(base_channels, 3, padding=1), nn.ReLU()) for _ in range(5)),
            nn.Conv2d(base_channels, out_channels, 1),
        )
        narrow, medium, wide = base_channels, 2 * base_channels, 4 * base_channels
"""
NARROW = "        narrow, medium, wide = base_channels, 2 * base_channels, 4 * base_channels\n"

STRETCHED = """        logits = torch.sigmoid(self.layers(x.flatten(start_dim=1)))
        logits = (logits - logits.min()) / (logits.max() - logits.min() + 1e-8)
"""

# Name -> (edits, TODO, tests that must fail, words of the first line of the first).
WRONG = {
    "dropout stays on in the MLP": (
        [(MODELS, MLP_CALL, "        return self.layers(nn.functional.dropout(x.flatten(start_dim=1), 0.3))")],
        "1.1",
        ["test_evaluation[mlp]"],
        "dropout stays on",
    ),
    "what lies below 0 is cut off": (
        [(MODELS, MLP_CALL, "        return self.layers(x.relu().flatten(start_dim=1))")],
        "1.1",
        ["test_evaluation[mlp]"],
        "small changes of pixels below 0",
    ),
    "the last column is left out": (
        [(MODELS, MLP_CALL, "        return self.layers(nn.functional.pad(x[..., :-1], (0, 1)).flatten(start_dim=1))")],
        "1.1",
        ["test_mlp_sees_every_pixel"],
        "3 of 84 pixel values",
    ),
    "masks stretched over the batch": (
        [
            (SEG_MODELS, "        logits = self.layers(x.flatten(start_dim=1))", STRETCHED),
            (
                SEG_MODELS,
                "        return torch.sigmoid(logits).view(B, self.out_channels, H, W)\n        # END SOLUTION 2.1",
                "        return logits.view(B, self.out_channels, H, W)\n        # END SOLUTION 2.1",
            ),
        ],
        "2.1",
        ["test_evaluation[mlp]"],
        "in evaluation mode the output for an image depends on the other images",
    ),
    "dropout stays on in the CNN": (
        [
            (
                MODELS,
                "self.features(x).flatten(start_dim=1))",
                "nn.functional.dropout(self.features(x).flatten(start_dim=1), 0.3))",
            )
        ],
        "1.2",
        ["test_evaluation[cnn]"],
        "dropout stays on",
    ),
    "dropout stays on in the U-Net": (
        [(SEG_MODELS, UNET_CALL, "        return torch.sigmoid(self.head(F.dropout(features, 0.2)))")],
        "2.3",
        ["test_evaluation[unet]"],
        "dropout stays on",
    ),
    "BatchNorm with momentum 0": (
        [
            (
                MODELS,
                CNN,
                "        def conv_block(i, o):\n"
                "            norm = nn.BatchNorm2d(o, momentum=0.0)\n"
                "            return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), norm, nn.ReLU())\n" + CNN,
            )
        ],
        "1.2",
        ["test_evaluation[cnn]"],
        "do not follow",
    ),
    "BatchNorm without running statistics": (
        [
            (
                MODELS,
                CNN,
                "        def conv_block(i, o):\n"
                "            norm = nn.BatchNorm2d(o, track_running_stats=False)\n"
                "            return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), norm, nn.ReLU())\n" + CNN,
            )
        ],
        "1.2",
        ["test_evaluation[cnn]"],
        "other images of its batch",
    ),
    "a classifier with a fixed number of classes": (
        [
            (
                MODELS,
                "        self.classifier = nn.Linear(256, num_classes)",
                "        self.classifier = nn.Linear(256, 9)",
            )
        ],
        "1.2",
        ["test_num_classes[cnn]"],
        "shape",
    ),
    "an MLP of the mean colour": (
        [(MODELS, MLP_CALL, "        return self.layers(x.mean((2, 3)).repeat(1, 784))")],
        "1.1",
        ["test_mlp_sees_every_pixel"],
        "same influence",
    ),
    "linear segmentation by a 1 x 1 convolution": (
        [
            (
                SEG_MODELS,
                "        self.pixel_map = nn.Linear(in_channels * pixels, out_channels * pixels)",
                "        self.pixel_map = nn.Conv2d(in_channels, out_channels, 1)",
            ),
            (SEG_MODELS, LINEAR_MASK, "        logits = self.pixel_map(x)\n"),
        ],
        "2.0",
        ["test_sees_whole_image[linear]"],
        "whole image",
    ),
    "a U-Net of five full-size convolutions": (
        [
            (SEG_MODELS, NARROW, FULL_SIZE),
            (SEG_MODELS, ENCODE_28, "        return torch.sigmoid(self.full(x))\n" + ENCODE_28),
        ],
        "2.3",
        ["test_field_of_view[unet]", "test_encoder[unet]"],
        "sees only 5 pixels",
    ),
    "a CNN that sees 3 channels only": (
        [(SEG_MODELS, "            conv_block(in_channels, 48),", "            conv_block(3, 48),")],
        "2.2",
        ["test_channels[cnn]"],
        "channels",
    ),
    "an encoder-decoder with a skip": (
        [(SEG_MODELS, ENCODE, "        return torch.sigmoid(self.decoder(self.encoder(x)) + x.mean(1, keepdim=True))")],
        "2.2",
        ["test_middle[cnn]"],
        "skip",
    ),
    "a U-Net without its lower skip": (
        [(SEG_MODELS, "self.up_14(features), skip_14", "self.up_14(features), torch.zeros_like(skip_14)")],
        "2.3",
        ["test_unet_skips_at_every_size"],
        "no skip at that size",
    ),
}


def test_a_unet_with_each_skip_at_the_other_level_loses_detail(tmp_path):
    """In both trainings: the second is no longer than the first."""
    crossed = (
        (SEG_MODELS, "features), skip_14", "features), F.avg_pool2d(skip_28, 2).repeat(1, 2, 1, 1)"),
        (SEG_MODELS, "features), skip_28", "features), F.interpolate(skip_14, scale_factor=2)[:, ::2]"),
    )
    student = LocalStudent(tmp_path, reference_with(*crossed))
    with pytest.raises(CheckFailed, match="fine detail is lost"):
        test_2_models.test_unet_has_skips(student, np.random.default_rng(0))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_models_fail_with_their_cause(tmp_path, name):
    edits, todo, tests, words = WRONG[name]
    found = failures(tmp_path, edits, [todo])
    assert set(tests) <= set(found), f"failed were {sorted(found)}"
    assert words in found[tests[0]].splitlines()[0]


RIGHT = {
    "lazy layers": (
        [
            (
                MODELS,
                "        self.classifier = nn.Linear(256, num_classes)",
                "        self.classifier = nn.LazyLinear(num_classes)",
            )
        ],
        "1.2",
    ),
    "dropout": (
        [
            (
                MODELS,
                "        self.classifier = nn.Linear(256, num_classes)",
                "        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(256, num_classes))",
            )
        ],
        "1.2",
    ),
    "a slow BatchNorm": (
        [
            (
                MODELS,
                CNN,
                "        def conv_block(i, o):\n"
                "            norm = nn.BatchNorm2d(o, momentum=0.01)\n"
                "            return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), norm, nn.ReLU(), nn.Dropout2d(0.1))\n"
                + CNN,
            )
        ],
        "1.2",
    ),
    "GroupNorm": (
        [
            (
                SEG_MODELS,
                "        def double_block(inputs",
                "        def conv_block(i, o):\n"
                "            return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.GroupNorm(4, o), nn.SiLU())\n\n"
                "        def double_block(inputs",
            )
        ],
        "2.3",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_models_keep_all_checks(tmp_path, name):
    edits, todo = RIGHT[name]
    assert failures(tmp_path, edits, [todo]) == {}


@pytest.mark.parametrize(("entry", "seed"), [("zero_heads", 0), ("zero_heads", 1), ("bilinear_unet", 0)])
def test_skips_of_right_unets_are_found(tmp_path, entry, seed):
    """A last layer that starts at zero was dead on images that BatchNorm had not seen. The other has ReLU in place."""
    (variant,) = [one for one in load_bank() if one.name == entry]
    name = "segmentation_models.py"
    student, rng = LocalStudent(tmp_path, {name: variant.files[name]}), np.random.default_rng(seed)
    test_2_models.test_middle(student, rng, "unet")
    test_2_models.test_unet_skips_at_every_size(student, rng)
    test_2_models.test_evaluation(student, rng, "unet")
    assert test_2_models.departure_from_affine(test_2_models.stirred_model(student, rng, "unet"), rng) > 0.01
