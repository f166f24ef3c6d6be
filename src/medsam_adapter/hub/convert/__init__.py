"""Checkpoints of other code to folders of this library and back: Meta's SAM, MedSAM, the authors' public MSA code."""
