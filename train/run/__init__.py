"""The folder of a run, and its contents: state, metrics, curves. Also trackers and the handling of Ctrl-C."""
