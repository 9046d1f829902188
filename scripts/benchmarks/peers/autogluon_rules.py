"""The rules of AutoGluon's ``MultiModalPredictor`` for images, written out, since it takes weights from a hub alone.

AdamW at .0001 with a decay of .001, .9 of the rate for each layer farther from the head, batches of 128, a tenth of the
steps to warm up, then a cosine, TrivialAugment; the best of the weights by validation accuracy, seen ten times.
"""

from copy import deepcopy
from functools import partial

import numpy as np
import torch
from peer import Photos, Predict, pretrained, probabilities
from timm.optim import param_groups_layer_decay
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torchvision.transforms.v2 import TrivialAugmentWide


def train(photos: Photos, images: int, batch_size: int = 128) -> Predict:
    """Train all weights."""
    model, augment = pretrained(photos.classes), TrivialAugmentWide()
    layers = param_groups_layer_decay(model, weight_decay=0.001, layer_decay=0.9)
    groups = [{**group, "lr": 1e-4 * group["lr_scale"]} for group in layers]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    steps, best, kept = round(images / batch_size), -1.0, model.state_dict()
    warm = max(1, steps // 10)
    cosine = CosineAnnealingLR(optimizer, steps - warm)
    schedule = SequentialLR(optimizer, [LinearLR(optimizer, 0.01, total_iters=warm), cosine], [warm])
    for step in range(steps):
        model.train()
        batch = np.random.choice(len(photos.labels), min(batch_size, len(photos.labels)), replace=False)
        pictures = torch.from_numpy(photos.images[batch]).permute(0, 3, 1, 2)
        inputs = torch.stack([augment(picture) for picture in pictures]).float() / 127.5 - 1
        loss = cross_entropy(model(inputs), torch.from_numpy(photos.labels[batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 10) == 0:
            found = (probabilities(model, photos.validation_images).argmax(1) == photos.validation_labels).mean()
            if found >= best:
                best, kept = found, deepcopy(model.state_dict())
    model.load_state_dict(kept)
    return partial(probabilities, model)
