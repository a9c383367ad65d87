"""How good a candidate is: everything that yields a number with a unit from a model file."""
