"""Losses of the student-teacher detector. Importing this module imports torch."""

import torch
from torch.nn import functional

from sklearn_exdd.detectors.student_teacher.networks import cosines, normalized, products

_COVERED = 0.2  # minimum fraction of a cell that a defect must cover for the cell to count as defective
# Weights in the segmentation loss: focal loss, defective cells within it, and labels of crops. L1 has the weight 1.
_FOCAL, _POSITIVE, _IMAGE = 8.0, 3.0, 0.1
_TOP_SHARE = 0.01  # fraction of the logits of a crop to average; the mean of the highest logits classifies the crop


def teacher_loss(teacher, head, gamma):
    """Return the loss function of a learned teacher. The function takes a batch."""

    def loss_of(batch):
        return segmentation_loss(head(normalized(teacher(batch.corrupted, batch.medians))), batch, gamma)

    return loss_of


def student_loss(network, cosine_weight, segmentation_weight, gamma):
    """Return the loss function of student and head with a frozen teacher. The function takes a batch."""

    def loss_of(batch):
        with torch.no_grad():
            seen = network.teacher(batch.corrupted, batch.medians)
            targets = clean_maps(network.teacher, seen, batch) if cosine_weight else None
        loss, rebuilt = 0, network.student(batch.corrupted, batch.medians)
        if cosine_weight:
            loss = loss + cosine_weight * cosine_loss(targets, rebuilt, batch.normal)
        if segmentation_weight:
            logits = network.head(products(seen, rebuilt))
            loss = loss + segmentation_weight * segmentation_loss(logits, batch, gamma)
        return loss

    return loss_of


def clean_maps(teacher, seen, batch):
    """Return the teacher's maps of the clean crops. Crops without defects have the same maps as in `seen`."""
    changed = (batch.clean != batch.corrupted).flatten(1).any(dim=1)
    if not changed.any():
        return seen
    return [
        level.index_put((changed,), clean)
        for level, clean in zip(seen, teacher(batch.clean[changed], batch.medians[changed]))
    ]


def cosine_loss(targets, rebuilt, normal):
    """Return 1 - cos, averaged over the positions that `normal` marks and summed over the levels.

    `normal` has the shape (n, 1, height, width) and is 1 on normal pixels.
    """
    total = 0
    for distances in cosines(targets, rebuilt):
        # A position is used only if all pixels of its cell are normal.
        valid = 1 - functional.max_pool2d(1 - normal, normal.shape[2] // distances.shape[1])[:, 0]
        total = total + (valid * distances).sum() / valid.sum().clamp(min=1)
    return total


def segmentation_loss(logits, batch, gamma):
    """Return the sum of the focal and L1 losses of marked crops and the cross-entropy of the highest logits."""
    logits = logits.float()
    target = (functional.avg_pool2d(batch.mask, batch.mask.shape[2] // logits.shape[1])[:, 0] > _COVERED).float()
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = (1 + (_POSITIVE - 1) * target) * (1 - torch.exp(-entropy)) ** gamma * entropy
    valid = batch.marked[:, None, None].float().expand_as(logits)
    pixels = _FOCAL * focal + (torch.sigmoid(logits) - target).abs()
    top = logits.flatten(1).topk(max(1, round(_TOP_SHARE * logits[0].numel()))).values.mean(dim=1)
    images = functional.binary_cross_entropy_with_logits(top, batch.defective)
    return (valid * pixels).sum() / valid.sum().clamp(min=1) + _IMAGE * images
