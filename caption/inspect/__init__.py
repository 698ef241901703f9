"""`clipcap-inspect`: what a cache or a checkpoint is, and whether it is whole."""
