"""What services say to each other: the only place where they meet."""
