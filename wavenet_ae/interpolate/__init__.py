"""Mixes of sounds: what is to be mixed, over a keyboard too, whether it can be done here, and what is shown of it."""
