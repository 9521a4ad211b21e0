"""Gates of each precision, and the golden frame of a bundle through an engine."""
