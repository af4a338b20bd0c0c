"""Reading conversations and token-level rewards from files of many forms."""
