"""Image files and pixels: reading, writing, metadata, resampling, degradations, and pictures that are drawn or ship."""
