"""An ensemble as a LightningModule, and a task as a LightningDataModule, for a Trainer of your own."""
