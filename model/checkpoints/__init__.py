"""Files of weights: published ones, their download and their dangers, and our own format."""
