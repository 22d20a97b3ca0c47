"""Review pages in the model server: the human branch of the gate."""
