"""The one training loop, and what makes it resume exactly."""
