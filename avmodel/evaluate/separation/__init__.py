"""Source separation: the sound of each image, from a mixture."""
