"""Fits: recipes, the LightningModule, the runner, and what frozen encoders say."""
