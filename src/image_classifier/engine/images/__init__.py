"""From files to batches: reading, decoding, memory, order; imports nothing else of the engine but errors and files."""
