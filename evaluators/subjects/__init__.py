"""Adapters from what people have (a module, arrays, loaders) to a Subject, and finding one by name."""
