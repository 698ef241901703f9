"""The folder of a run and what is kept in it: state, metrics, curves."""
