"""Torch's functions in other words: that vmap can batch, that can be differentiated twice, whose draws are seen."""
