"""Pictures for people: overlays, panels, videos."""
