"""A student's version as a directory that others load: what goes into it, its model card, and the way to the hub."""
