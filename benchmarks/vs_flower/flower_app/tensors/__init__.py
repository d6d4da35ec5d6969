"""Moves tensors through Flower."""
