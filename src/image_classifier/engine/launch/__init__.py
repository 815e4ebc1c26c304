"""From what is typed to a checked configuration, its objects and its processes; may import every other room."""
