"""The online predictor as an HTTP service; its packages are the extra ``serve``."""
