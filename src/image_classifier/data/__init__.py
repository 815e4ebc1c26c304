"""The data sets, one file each, the datamodule that serves them, and augmentation; may import the engine's images."""
