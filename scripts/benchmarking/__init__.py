"""What scripts/benchmark.py measures and how: ours and the peer's in processes of their own, taking turns."""
