"""`clipcap-demo`: the three stages on drawn scenes, offline."""
