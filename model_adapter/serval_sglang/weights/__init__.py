"""Loading of a checkpoint's tensors into the model: unpacking, and a ledger of what has arrived."""
