"""The project's state in git and DVC."""
