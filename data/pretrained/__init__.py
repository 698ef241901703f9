"""Loads what both stages take ready-made: tokenizers, bundled models, the model hub, devices and precisions."""
