"""What a cloner need not open: nothing here imports the pipeline, the models, the data or the callbacks."""
