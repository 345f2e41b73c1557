"""What any process writes: metric rows, media, counts, versions. Knows no verdict."""
