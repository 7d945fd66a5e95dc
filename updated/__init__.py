"""The update agent and its tools; see ARCHITECTURE.md for the rooms and the arrows between them."""
