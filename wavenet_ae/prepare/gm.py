"""General MIDI: which family and source a program belongs to in NSynth's terms, and the keys it plays by nature."""

from typing import NamedTuple


class Program(NamedTuple):
    """A program with a pitch; `low` to `high` is the range of keys that the real instrument has."""

    family: str
    source: str
    low: int
    high: int


# Programs 55, 96-103, 112, 113 and 115-127 are effects and drums, without a pitch to learn.
PROGRAMS: dict[int, Program] = {
    0: Program("keyboard", "acoustic", 21, 108),  # Acoustic Grand Piano
    1: Program("keyboard", "acoustic", 21, 108),  # Bright Acoustic Piano
    2: Program("keyboard", "electronic", 21, 108),  # Electric Grand Piano
    3: Program("keyboard", "acoustic", 21, 108),  # Honky-tonk Piano
    4: Program("keyboard", "electronic", 28, 103),  # Electric Piano 1
    5: Program("keyboard", "electronic", 28, 103),  # Electric Piano 2
    6: Program("keyboard", "acoustic", 41, 89),  # Harpsichord
    7: Program("keyboard", "electronic", 36, 96),  # Clavinet
    8: Program("mallet", "acoustic", 60, 108),  # Celesta
    9: Program("mallet", "acoustic", 72, 108),  # Glockenspiel
    10: Program("mallet", "acoustic", 60, 84),  # Music Box
    11: Program("mallet", "acoustic", 53, 89),  # Vibraphone
    12: Program("mallet", "acoustic", 48, 84),  # Marimba
    13: Program("mallet", "acoustic", 65, 96),  # Xylophone
    14: Program("mallet", "acoustic", 60, 77),  # Tubular Bells
    15: Program("mallet", "acoustic", 60, 84),  # Dulcimer
    16: Program("organ", "electronic", 36, 96),  # Drawbar Organ
    17: Program("organ", "electronic", 36, 96),  # Percussive Organ
    18: Program("organ", "electronic", 36, 96),  # Rock Organ
    19: Program("organ", "acoustic", 21, 108),  # Church Organ
    20: Program("organ", "acoustic", 36, 96),  # Reed Organ
    21: Program("organ", "acoustic", 53, 89),  # Accordion
    22: Program("organ", "acoustic", 60, 84),  # Harmonica
    23: Program("organ", "acoustic", 53, 89),  # Bandoneon
    24: Program("guitar", "acoustic", 40, 84),  # Nylon Guitar
    25: Program("guitar", "acoustic", 40, 84),  # Steel Guitar
    26: Program("guitar", "electronic", 40, 86),  # Jazz Guitar
    27: Program("guitar", "electronic", 40, 86),  # Clean Guitar
    28: Program("guitar", "electronic", 40, 86),  # Muted Guitar
    29: Program("guitar", "electronic", 40, 86),  # Overdriven Guitar
    30: Program("guitar", "electronic", 40, 86),  # Distortion Guitar
    31: Program("guitar", "electronic", 40, 86),  # Guitar Harmonics
    32: Program("bass", "acoustic", 28, 55),  # Acoustic Bass
    33: Program("bass", "electronic", 28, 55),  # Fingered Bass
    34: Program("bass", "electronic", 28, 55),  # Picked Bass
    35: Program("bass", "electronic", 28, 55),  # Fretless Bass
    36: Program("bass", "electronic", 28, 55),  # Slap Bass 1
    37: Program("bass", "electronic", 28, 55),  # Slap Bass 2
    38: Program("bass", "synthetic", 28, 55),  # Synth Bass 1
    39: Program("bass", "synthetic", 28, 55),  # Synth Bass 2
    40: Program("string", "acoustic", 55, 93),  # Violin
    41: Program("string", "acoustic", 48, 84),  # Viola
    42: Program("string", "acoustic", 36, 72),  # Cello
    43: Program("string", "acoustic", 28, 55),  # Contrabass
    44: Program("string", "acoustic", 28, 93),  # Tremolo Strings
    45: Program("string", "acoustic", 28, 93),  # Pizzicato Strings
    46: Program("string", "acoustic", 23, 103),  # Harp
    47: Program("mallet", "acoustic", 36, 57),  # Timpani
    48: Program("string", "acoustic", 28, 96),  # String Ensemble 1
    49: Program("string", "acoustic", 28, 96),  # String Ensemble 2
    50: Program("string", "synthetic", 36, 96),  # Synth Strings 1
    51: Program("string", "synthetic", 36, 96),  # Synth Strings 2
    52: Program("vocal", "acoustic", 48, 79),  # Choir Aahs
    53: Program("vocal", "acoustic", 48, 79),  # Voice Oohs
    54: Program("vocal", "synthetic", 48, 84),  # Synth Voice
    56: Program("brass", "acoustic", 58, 94),  # Trumpet
    57: Program("brass", "acoustic", 34, 75),  # Trombone
    58: Program("brass", "acoustic", 29, 55),  # Tuba
    59: Program("brass", "acoustic", 58, 82),  # Muted Trumpet
    60: Program("brass", "acoustic", 41, 77),  # French Horn
    61: Program("brass", "acoustic", 36, 96),  # Brass Section
    62: Program("brass", "synthetic", 36, 96),  # Synth Brass 1
    63: Program("brass", "synthetic", 36, 96),  # Synth Brass 2
    64: Program("reed", "acoustic", 54, 87),  # Soprano Sax
    65: Program("reed", "acoustic", 49, 80),  # Alto Sax
    66: Program("reed", "acoustic", 42, 75),  # Tenor Sax
    67: Program("reed", "acoustic", 37, 68),  # Baritone Sax
    68: Program("reed", "acoustic", 58, 91),  # Oboe
    69: Program("reed", "acoustic", 52, 81),  # English Horn
    70: Program("reed", "acoustic", 34, 64),  # Bassoon
    71: Program("reed", "acoustic", 50, 91),  # Clarinet
    72: Program("flute", "acoustic", 74, 108),  # Piccolo
    73: Program("flute", "acoustic", 60, 96),  # Flute
    74: Program("flute", "acoustic", 60, 96),  # Recorder
    75: Program("flute", "acoustic", 60, 96),  # Pan Flute
    76: Program("flute", "acoustic", 60, 96),  # Blown Bottle
    77: Program("flute", "acoustic", 55, 84),  # Shakuhachi
    78: Program("flute", "acoustic", 60, 96),  # Whistle
    79: Program("flute", "acoustic", 60, 84),  # Ocarina
    80: Program("synth_lead", "synthetic", 21, 108),  # Square Lead
    81: Program("synth_lead", "synthetic", 21, 108),  # Saw Lead
    82: Program("synth_lead", "synthetic", 36, 96),  # Calliope Lead
    83: Program("synth_lead", "synthetic", 36, 96),  # Chiff Lead
    84: Program("synth_lead", "synthetic", 36, 96),  # Charang Lead
    85: Program("synth_lead", "synthetic", 36, 96),  # Voice Lead
    86: Program("synth_lead", "synthetic", 36, 96),  # Fifths Lead
    87: Program("synth_lead", "synthetic", 21, 108),  # Bass and Lead
    88: Program("synth_lead", "synthetic", 36, 96),  # New Age Pad
    89: Program("synth_lead", "synthetic", 36, 96),  # Warm Pad
    90: Program("synth_lead", "synthetic", 36, 96),  # Polysynth Pad
    91: Program("synth_lead", "synthetic", 36, 96),  # Choir Pad
    92: Program("synth_lead", "synthetic", 36, 96),  # Bowed Pad
    93: Program("synth_lead", "synthetic", 36, 96),  # Metallic Pad
    94: Program("synth_lead", "synthetic", 36, 96),  # Halo Pad
    95: Program("synth_lead", "synthetic", 36, 96),  # Sweep Pad
    104: Program("guitar", "acoustic", 48, 77),  # Sitar
    105: Program("guitar", "acoustic", 48, 84),  # Banjo
    106: Program("guitar", "acoustic", 50, 79),  # Shamisen
    107: Program("guitar", "acoustic", 55, 84),  # Koto
    108: Program("mallet", "acoustic", 48, 79),  # Kalimba
    109: Program("reed", "acoustic", 36, 77),  # Bagpipe
    110: Program("string", "acoustic", 55, 96),  # Fiddle
    111: Program("reed", "acoustic", 48, 72),  # Shanai
    114: Program("mallet", "acoustic", 52, 76),  # Steel Drums
}
