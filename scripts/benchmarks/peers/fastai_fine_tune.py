"""fastai's ``fine_tune`` with its default rates, head, schedule and augmentation."""

import numpy as np
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    IndexSplitter,
    Normalize,
    PILImage,
    aug_transforms,
    vision_learner,
)
from peer import ARCHITECTURE, Photos, Predict, Probabilities, weights


def train(photos: Photos, images: int, bs: int = 64) -> Predict:
    """Train the head for an epoch, then all weights."""
    pictures = np.concatenate([photos.images, photos.validation_images])
    labels = np.concatenate([photos.labels, photos.validation_labels])
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(range(photos.classes)))),
        get_x=lambda place: pictures[place],
        get_y=lambda place: labels[place],
        splitter=IndexSplitter(range(len(photos.labels), len(labels))),
        batch_tfms=[*aug_transforms(), Normalize.from_stats([0.5] * 3, [0.5] * 3)],
    )
    loaders = block.dataloaders(range(len(labels)), bs=bs, num_workers=0)
    learner = vision_learner(loaders, ARCHITECTURE, pretrained_cfg_overlay={"state_dict": weights()}, normalize=False)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(max(1, round(images / (len(loaders.train) * bs)) - 1))

    def predict(images: np.ndarray) -> Probabilities:
        test = loaders.test_dl([PILImage.create(image) for image in images])
        with learner.no_bar():
            return learner.get_preds(dl=test)[0].double().numpy()

    return predict
