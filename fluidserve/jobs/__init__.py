"""A job does the work of a command once its parameters are known; sweeps call the same jobs."""
