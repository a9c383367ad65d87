"""Operators that only move elements: quantized, their outputs keep the scale of their input."""

MOVES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout", "MaxPool"}
MOVES_APART = {"Split"}  # into several outputs
