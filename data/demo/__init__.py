"""Drawn scenes with true captions, the judge of captions, and small models that were trained on them."""
