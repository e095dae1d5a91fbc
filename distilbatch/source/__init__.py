"""Reads documents out of Parquet files: what there is (listing) and the rows of one shard (reader)."""
