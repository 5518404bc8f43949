"""Memory banks of patch features, and the patches that fill them."""
