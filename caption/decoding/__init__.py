"""How a caption is chosen among all that the model could say.

The loop (loop.py) asks the model for logits and a strategy for the next tokens. A strategy is one file here and one
line in registry.py. Importing this package loads nothing heavy.
"""
