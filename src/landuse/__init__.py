"""A trusted scene classifier for overhead images, kept fresh."""
