"""Building blocks of the flows: what their tasks do."""
