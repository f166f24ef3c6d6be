"""The tables of the Medical SAM Adapter paper as printed, and how to measure what stands in their columns.

Wu et al., Medical SAM Adapter: Adapting Segment Anything Model for Medical Image Segmentation, arXiv 2304.12620, later
in Medical Image Analysis, 10.1016/j.media.2025.103547. `*.csv` hold the printed figures, `footnotes.yaml` what is odd
about them.
"""
