"""Training of backbones: from nothing (`promptable`), and later self-supervised."""
