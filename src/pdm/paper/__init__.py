"""What one notebook alone reads: the paper's theory, its own size, and where its authors' release departs from it."""
