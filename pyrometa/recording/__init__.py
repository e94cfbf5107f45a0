"""Tensor operations recorded once and replayed for as long as nothing that they depend on has changed."""
