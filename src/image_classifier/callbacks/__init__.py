"""One file for each question that is asked of a run; may import the engine, not each other."""
