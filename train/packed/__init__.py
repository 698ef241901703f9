"""The model over packed captions: their layout, and the loss with every kernel that it is made of."""
