"""What each precision must reproduce: gates, and the golden frame of a bundle through an engine."""
