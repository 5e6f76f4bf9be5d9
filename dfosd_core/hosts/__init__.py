"""One adapter a file for whoever owns the weights; each imports only its own host."""
