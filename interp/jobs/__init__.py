"""Jobs: what a command does, from settings to stored records."""
