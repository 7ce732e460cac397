"""Mutated inputs for every door of the service, and what each door may answer."""
