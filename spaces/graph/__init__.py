"""The exported graph: its weights, how they are rounded and packed, and a view of it that can be trained."""
