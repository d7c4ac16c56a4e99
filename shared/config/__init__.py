"""Settings of a run: the model (`settings`), where they come from (`loading`), and the presets."""
