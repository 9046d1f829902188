"""A plain loop: timm, AdamW at one rate, a fixed number of epochs, the last weights."""

from functools import partial

import torch
from peer import Photos, Predict, pretrained, probabilities, scaled
from torch.nn.functional import cross_entropy


def train(photos: Photos, images: int, lr: float) -> Predict:
    """Train all weights."""
    model = pretrained(photos.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    inputs, labels = scaled(photos.images), torch.from_numpy(photos.labels)
    model.train()
    for _ in range(round(images / len(labels))):
        for batch in torch.randperm(len(labels)).split(32):
            loss = cross_entropy(model(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return partial(probabilities, model)
