"""A network as source code that a person can read, own and change: plain PyTorch, nothing of st."""
