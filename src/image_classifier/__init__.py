"""Train an image classifier, see where it goes wrong, compare runs, sweep."""
