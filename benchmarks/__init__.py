"""Speed, measured: each module prints one JSON object a figure."""
