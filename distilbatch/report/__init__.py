"""What a sink holds: how far its runs are, and whether what they published is whole. Reads only."""
