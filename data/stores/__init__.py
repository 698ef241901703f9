"""Stores of image files that are not files of their own: members of tars and rows of tables."""
