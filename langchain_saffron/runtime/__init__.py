"""What computation runs on: devices, threads, memory, files."""
