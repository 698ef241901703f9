"""Decoding strategies, ours and those of other systems."""
