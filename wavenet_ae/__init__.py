"""NSynth's WaveNet autoencoder: notes to 16 numbers every 32 ms, and back to sound."""

__version__ = "0.1.0"
