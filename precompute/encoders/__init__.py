"""Frozen image encoders: CLIPs of open_clip, and models of timm.

load.py    load_encoder: an encoder by its name
base.py    Encoder: what every encoder is
"""
