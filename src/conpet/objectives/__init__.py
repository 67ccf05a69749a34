"""What is optimised and answered: classification."""
