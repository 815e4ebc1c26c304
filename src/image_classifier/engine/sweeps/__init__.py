"""The jobs of a multirun: study, launchers, ranking, pruning; may see the configuration, and imports no launching."""
