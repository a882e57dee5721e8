"""Corpora out of SoundFonts, folders of audio and NSynth's TFRecords, and the faults of those there are."""
