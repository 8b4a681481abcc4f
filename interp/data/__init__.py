"""Tasks and data: prompt pairs, generated word problems, JSONL files."""
