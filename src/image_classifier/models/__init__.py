"""The classifier and its networks and losses, one file each; may import the engine's training room."""
