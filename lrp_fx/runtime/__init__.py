"""Runtime: what runs, and what is kept from call to call."""
