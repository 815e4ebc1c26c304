"""Counts of the confusion matrix and their arithmetic, names, keys and tables; imports nothing else of ours."""
