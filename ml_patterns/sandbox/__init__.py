"""Makes the bundled events, and stands in for an unreliable upstream in the demo."""
