"""A transferred ensemble in use: reading it, calibration, prediction, export, and its model card."""
