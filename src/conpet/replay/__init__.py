"""What old data a method sees again: dynamic replay, full history, a small memory, or nothing."""
