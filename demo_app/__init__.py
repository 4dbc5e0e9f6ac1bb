"""The real-time demo: runs a bundle on a camera, a video, a folder or a recorded session."""
