"""The command line. What its help needs is read at once, torch and all that needs it when a command runs."""
