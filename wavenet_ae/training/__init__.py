"""Training: the loop, what is minimised, how fast to learn, and the folder a run lives in."""
