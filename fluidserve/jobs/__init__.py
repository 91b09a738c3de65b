"""What each command does, once its parameters are known; commands and sweeps call the same jobs."""
