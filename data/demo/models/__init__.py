"""The models inside the package, and the script that trained them."""
