"""What a machine is, and what it costs to run a graph on it."""
