"""Charts, contact sheets and pages, without a display."""
