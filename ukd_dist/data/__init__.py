"""Videos become shards, and shards become clips."""
