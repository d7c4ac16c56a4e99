"""The files of a deployment that name its students."""
