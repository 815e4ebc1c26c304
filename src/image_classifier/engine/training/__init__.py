"""What Lightning needs told: metrics, optimizer and schedule, checkpoints, shortcuts; sees no configuration."""
