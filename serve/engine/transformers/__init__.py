"""The reference engine: any quantisation of the base, with the adapter beside it."""
