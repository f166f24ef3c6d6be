"""DICOM: images, how their planes make a volume, and segmentations (SEG)."""
