"""Building a shard set out of core: plan, map, join, reduce."""
