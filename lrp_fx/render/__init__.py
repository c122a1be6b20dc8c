"""Pictures from plain data: in the terminal, as a self-contained HTML page, as a matplotlib figure."""
