"""A drawn dataset with known content: scenes, their images and captions, a judge of captions, and small models."""
