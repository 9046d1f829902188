"""Encoders, classifiers, and ensembles of them."""
