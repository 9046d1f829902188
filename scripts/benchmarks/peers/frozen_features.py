"""Logistic regression of scikit-learn on the features of the frozen network."""

import numpy as np
import torch
from peer import Photos, Predict, pretrained, scaled
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def train(photos: Photos, _images: int, tuned: bool = False) -> Predict:
    """Fit a regression with scikit-learn's strength of regularisation, or one that cross-validation chooses."""
    model = pretrained(0).eval()

    def features(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return torch.cat([model(batch) for batch in scaled(images).split(100)]).numpy()

    search = LogisticRegressionCV(scoring="neg_log_loss", max_iter=1000, l1_ratios=(0,), use_legacy_attributes=False)
    classifier = make_pipeline(StandardScaler(), search if tuned else LogisticRegression(max_iter=1000))
    classifier.fit(features(photos.images), photos.labels)
    return lambda images: classifier.predict_proba(features(images))
