"""What every command shares: running it, its options, presets and progress."""
