"""Sweeps: a directory for each job, resuming, Optuna with pruning, a report at the end."""
