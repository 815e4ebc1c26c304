"""The files of a run: metrics, counts, predictions, the report page, where it all comes from; sees no configuration."""
