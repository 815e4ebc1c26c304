"""Everything that paints: arrays in, pixels out; imports the arithmetic of the confusion matrix alone."""
