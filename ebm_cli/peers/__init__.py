"""Models of other packages: each of their file formats, read and written."""
