"""Prompts: where clicks, boxes and mask prompts come from, in training, in evaluation and from people."""
