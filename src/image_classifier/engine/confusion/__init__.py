"""Counts of the confusion matrix and their arithmetic, names and keys; imports nothing else of ours."""
