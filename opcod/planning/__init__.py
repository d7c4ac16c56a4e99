"""What a run would do and need, worked out before it begins: `opcod run --dry-run`."""
