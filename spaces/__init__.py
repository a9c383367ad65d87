"""What may be done to a model, and the doing of it."""
