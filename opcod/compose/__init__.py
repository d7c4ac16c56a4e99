"""The Compose file of a deployment, for the students of a configuration."""
