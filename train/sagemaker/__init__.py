"""The `train` verb of the image, and the launcher of training jobs."""
